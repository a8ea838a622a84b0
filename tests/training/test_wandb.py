"""Runs at Weights & Biases, offline."""

import json
import math
import struct
import sys

import pytest

from cograd.errors import LogError, MissingPackageError
from cograd.training.loggers import WandB


@pytest.fixture
def wandb(tmp_path, monkeypatch):
    """The package, which finds no network and writes nothing outside of this test."""
    for name in ("DIR", "CACHE_DIR", "CONFIG_DIR", "DATA_DIR", "ARTIFACT_DIR"):
        monkeypatch.setenv(f"WANDB_{name}", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name, value in {"MODE": "offline", "SILENT": "true", "ERROR_REPORTING": "false", "CONSOLE": "off"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    import wandb

    yield wandb
    wandb.teardown()


def records(path):
    """The records of a ``.wandb`` file: 7 bytes, then blocks of 32 KiB with pieces of 7 bytes of header and data."""
    data, position, record = path.read_bytes(), 7, b""
    while position + 7 <= len(data):
        if (room := -position % 2**15) and room < 7:
            position += room
        _, length, kind = struct.unpack_from("<IHB", data, position)
        record += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # in one piece, or the last one
            yield record
            record = b""


def written(folder):
    """Of each offline run, in order of their places: its id and the rows of its history."""
    import wandb
    from wandb.proto import wandb_internal_pb2

    wandb.teardown()  # ends the process that writes: now all is in the files
    runs = []
    for path in sorted(folder.rglob("run-*.wandb")):
        name, rows = "", []
        for data in records(path):
            record = wandb_internal_pb2.Record.FromString(data)
            if record.WhichOneof("record_type") == "run":
                name = record.run.run_id
            if record.WhichOneof("record_type") == "history":
                row = {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in record.history.item}
                rows.append({key: value for key, value in row.items() if key in ("_step", "loss/a", "loss/b")})
        runs.append((name, rows))
    return runs


def test_a_run_is_continued_under_its_id(wandb, tmp_path):
    killed = WandB(project="digits", config={"seed": 3})
    assert killed.state_dict() == {}
    first, second = tmp_path / "runs" / "1", tmp_path / "runs" / "2"  # two: W&B names its own by the second
    first.mkdir(parents=True)
    second.mkdir()
    killed.start(first, {"lr": 0.1}, 0)
    assert dict(wandb.run.config) == {"lr": 0.1, "seed": 3}
    killed.log({"loss/a": 0.5, "loss/b": math.inf}, 10)
    killed.log({"loss/a": 0.25}, 20)
    state = killed.state_dict()
    killed.finish()
    assert wandb.run is None

    continued = WandB(project="digits", fork_from=f"{state['id']}?_step=3")
    continued.load_state_dict(state)
    continued.start(second, {"lr": 0.1}, 10)
    continued.log({"loss/a": 0.25}, 20)
    continued.log({"loss/a": 0.125}, 30)
    assert continued.state_dict() == state
    continued.finish()
    continued.finish()

    assert written(tmp_path / "runs") == [
        (state["id"], [{"_step": 10, "loss/a": 0.5, "loss/b": math.inf}, {"_step": 20, "loss/a": 0.25}]),
        (state["id"], [{"_step": 20, "loss/a": 0.25}, {"_step": 30, "loss/a": 0.125}]),
    ]


def test_a_run_of_yours_is_used_and_left_open(wandb, tmp_path):
    yours = wandb.init(project="mine", dir=tmp_path)
    logger = WandB()
    logger.start(None, {}, 0)
    logger.log({"loss/a": 0.5}, 10)
    logger.finish()
    assert wandb.run is yours
    yours.finish()
    assert written(tmp_path) == [(yours.id, [{"_step": 10, "loss/a": 0.5}])]


def test_misuse_is_refused(wandb, tmp_path):
    logger = WandB()
    logger.finish()
    with pytest.raises(LogError, match="Call start"):
        logger.log({"a": 1.0}, 1)
    logger.start(tmp_path, {}, 0)
    with pytest.raises(LogError, match=r"values\['b'\] must be a single number"):
        logger.log({"a": 1.0, "b": "x"}, 1)
    logger.finish()


def test_a_missing_package_is_named_with_what_to_type(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingPackageError, match=r'WandB needs the package wandb.*"cograd\[loggers\]"'):
        WandB()
