"""``log.jsonl``: what is in it, and what is left of it after a kill, a full disk, a continued run."""

import errno
import json
import math
import os
import resource
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

from cograd.errors import LogError, LogFileError
from cograd.training.loggers import CSV, JSONL


def lines(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.fixture
def log(tmp_path):
    """``log(*steps, step=0, state=None)``: a logger that started there and took a value at each of these steps."""
    loggers = []

    def make(*steps, step=0, state=None):
        logger = JSONL()
        loggers.append(logger)
        if state is not None:
            logger.load_state_dict(state)
        logger.start(tmp_path, {}, step)
        for at in steps:
            logger.log({"loss/a": at / 8}, at)
        return logger

    yield make
    for logger in loggers:
        logger.finish()


def test_each_call_is_a_line_that_is_there_at_once(log, tmp_path):
    logger = log()
    assert lines(tmp_path) == []
    logger.log({"epoch": 2, "loss/digit": 0.31}, 100)
    assert (tmp_path / "log.jsonl").read_text() == '{"step": 100, "epoch": 2, "loss/digit": 0.31}\n'
    logger.log({"val/digit": 0.5}, 100)
    assert lines(tmp_path)[1:] == [{"step": 100, "val/digit": 0.5}]


def test_what_is_not_finite_is_a_string_that_float_reads(log, tmp_path):
    log().log({"a": math.nan, "b": math.inf, "c": -math.inf}, 1)

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    line = json.loads((tmp_path / "log.jsonl").read_text(), parse_constant=refuse)
    assert math.isnan(float(line["a"]))
    assert float(line["b"]) == math.inf
    assert float(line["c"]) == -math.inf


def test_scalars_of_torch_and_numpy_are_numbers_and_keep_every_bit(log, tmp_path):
    third = torch.tensor(1 / 3)
    log().log({"torch": third, "numpy": np.float32(0.1), "count": np.int64(3)}, 1)
    (line,) = lines(tmp_path)
    assert torch.tensor(line["torch"]) == third
    assert np.float32(line["numpy"]) == np.float32(0.1)
    assert line["count"] == 3
    assert isinstance(line["count"], int)


@pytest.mark.parametrize("value", ["0.5", torch.ones(3), None, [1.0], 1j], ids=repr)
def test_what_is_not_a_number_is_refused_by_name_and_nothing_is_written(value, log, tmp_path):
    logger = log(1)
    with pytest.raises(LogError, match=r"values\['loss/b'\] must be a single number, found") as caught:
        logger.log({"loss/a": 1.0, "loss/b": value}, 2)
    assert type(value).__name__ in str(caught.value)
    assert len(lines(tmp_path)) == 1


@pytest.mark.parametrize("name", ["step", 3])
def test_a_name_that_cannot_be_one_is_refused(name, log):
    with pytest.raises(LogError, match=f"{name!r} cannot be the name of a value"):
        log().log({name: 1.0}, 1)


def test_all_that_is_wrong_is_said_at_once(log):
    with pytest.raises(LogError, match="2 problems"):
        log().log({"a": "x", "b": None}, 1)


def test_without_a_run_directory_it_says_how_to_give_one():
    with pytest.raises(LogError, match=r'fit\(\.\.\., run_dir="runs/one"\)'):
        JSONL().start(None, {}, 0)


def test_before_start_and_after_finish_it_takes_nothing(log):
    with pytest.raises(LogError, match="Call start"):
        JSONL().log({"a": 1.0}, 1)
    logger = log(1)
    logger.finish()
    with pytest.raises(LogError, match="Call start"):
        logger.log({"a": 1.0}, 2)


def test_finish_can_come_at_any_time_and_twice(log, tmp_path):
    JSONL().finish()
    logger = log(1)
    logger.finish()
    logger.finish()
    assert logger.state_dict() == {"bytes": (tmp_path / "log.jsonl").stat().st_size}


def test_a_fresh_run_starts_an_empty_file(log, tmp_path):
    log(1, 2)
    log(5)
    assert [line["step"] for line in lines(tmp_path)] == [5]


def test_a_continued_run_drops_to_the_byte_what_came_after_its_checkpoint(log, tmp_path):
    logger = log(10, 20)
    state = logger.state_dict()
    before = (tmp_path / "log.jsonl").read_bytes()
    logger.log({"loss/a": 7.0}, 20)  # of the same step, but after the checkpoint
    logger.log({"loss/a": 7.0}, 30)
    continued = log(step=20, state=state)
    assert (tmp_path / "log.jsonl").read_bytes() == before
    continued.log({"loss/a": 3.75}, 30)
    assert [line["step"] for line in lines(tmp_path)] == [10, 20, 30]
    assert continued.state_dict()["bytes"] == (tmp_path / "log.jsonl").stat().st_size


def test_a_checkpoint_before_the_first_step_counts_too(log, tmp_path):
    logger = log()
    logger.log({"val/a": 1.0}, 0)
    state = logger.state_dict()
    logger.log({"loss/a": 1.0}, 1)
    log(step=0, state=state)
    assert lines(tmp_path) == [{"step": 0, "val/a": 1.0}]


def test_without_a_state_the_steps_decide_and_a_torn_last_line_goes(log, tmp_path):
    log(10, 20, 30).finish()
    file = tmp_path / "log.jsonl"
    file.write_bytes(file.read_bytes() + b'{"step": 20, "lo')
    log(step=20)
    assert [line["step"] for line in lines(tmp_path)] == [10, 20]
    file.write_bytes(file.read_bytes() + b'{"step": 20, "lo')
    log(step=99)
    assert [line["step"] for line in lines(tmp_path)] == [10, 20]


def test_a_logger_can_be_used_for_one_run_after_another(log, tmp_path):
    logger = log(10, 20, step=0)
    state = logger.state_dict()
    logger.finish()
    logger.load_state_dict(state)
    logger.start(tmp_path, {}, 20)
    logger.finish()
    logger.start(tmp_path, {}, 0)  # a fresh run: the state of before is spent
    assert lines(tmp_path) == []


def test_a_logger_that_was_added_later_starts_where_the_run_is(log, tmp_path):
    log(30, step=20)
    assert [line["step"] for line in lines(tmp_path)] == [30]


@pytest.mark.parametrize("left", ["nothing", "one line", "half a line"])
def test_lost_lines_are_reported_and_the_rest_is_continued(left, log, tmp_path):
    logger = log(10, 20)
    state = logger.state_dict()
    logger.finish()
    file = tmp_path / "log.jsonl"
    first, second, _ = file.read_bytes().split(b"\n")
    file.write_bytes({"nothing": b"", "one line": first + b"\n", "half a line": first + b"\n" + second[:5]}[left])
    with pytest.warns(UserWarning, match=f"has lost lines since the checkpoint: .* of {state['bytes']} bytes are left"):
        log(30, step=20, state=state)
    assert [line["step"] for line in lines(tmp_path)] == [*([] if left == "nothing" else [10]), 30]


def test_a_file_that_is_no_log_is_not_cut(log, tmp_path):
    (tmp_path / "log.jsonl").write_text("dear diary\n")
    with pytest.raises(LogFileError, match="a line without a step: b'dear diary"):
        log(step=20)
    assert (tmp_path / "log.jsonl").read_text() == "dear diary\n"


def test_a_directory_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(LogFileError, match=r"No such file or directory\. Make the folder first") as caught:
        JSONL().start(tmp_path / "nowhere", {}, 0)
    assert str(tmp_path / "nowhere" / "log.jsonl") in str(caught.value)
    assert isinstance(caught.value, OSError)


@pytest.mark.parametrize("room", [0, 1, 10, 23])
def test_a_line_for_which_there_is_no_room_is_taken_back(room, log, tmp_path):
    logger = log(10)
    size = logger.state_dict()["bytes"]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + room, before[1]))
        with pytest.raises(LogFileError, match="cannot be written; what was in it is whole: File too large"):
            logger.log({"loss/a": 2.5}, 20)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [line["step"] for line in lines(tmp_path)] == [10]
    logger.log({"loss/a": 2.5}, 30)
    assert [line["step"] for line in lines(tmp_path)] == [10, 20, 30]
    assert logger.state_dict()["bytes"] > size


@pytest.mark.parametrize("logger", [JSONL(), CSV()])
@pytest.mark.parametrize("names", ["abc", "aaa"])
def test_lines_wait_for_room_and_no_checkpoint_may_count_on_them(logger, names, tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    logger.start(tmp_path, {}, 0)
    logger.log({names[0]: 0.5}, 1)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (logger._file.size, before[1]))
        for i in (1, 2):
            with pytest.raises(LogFileError) as caught:
                logger.log({names[i]: 0.5}, i + 1)
            assert caught.value.errno == errno.EFBIG
        with pytest.raises(LogFileError):
            logger.state_dict()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    logger.state_dict()
    logger.finish()
    text = next(tmp_path.glob("log.*")).read_text()
    assert len(text.splitlines()) == 3 + isinstance(logger, CSV)
    assert text.index("1") < text.index("2") < text.index("3")


@pytest.mark.parametrize("logger", [JSONL(), CSV()])
def test_lines_that_never_fit_are_an_error_at_the_end(logger, tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    logger.start(tmp_path, {}, 0)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (logger._file.size, before[1]))
        for call in (lambda: logger.log({"a": 0.5}, 1), logger.finish):
            with pytest.raises(LogFileError):
                call()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    logger.finish()


def test_a_disk_that_does_not_sync_is_named(log, monkeypatch, tmp_path):
    logger = log(10)

    def full(_):
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(LogFileError, match=r"log\.jsonl cannot be written") as caught:
        logger.state_dict()
    assert caught.value.errno == errno.EDQUOT


@pytest.mark.parametrize("written", [50, 333, 1000])
def test_a_killed_run_has_every_line_that_it_wrote(written, tmp_path):
    code = """
import itertools, pathlib, sys
from cograd.training.loggers import JSONL
logger = JSONL()
logger.start(pathlib.Path(sys.argv[1]), {}, 0)
for step in itertools.count():
    logger.log({"loss/a": step / 8}, step)
    print(step, flush=True)
"""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    run = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=environment
    )
    for _ in range(written):
        last = int(run.stdout.readline())
    run.send_signal(signal.SIGKILL)
    told = [int(line) for line in run.stdout.read().splitlines() if line.isdecimal()]
    run.stdout.close()
    run.wait()
    last = max([last, *told[:-1]])
    whole = (tmp_path / "log.jsonl").read_text().rpartition("\n")[0].splitlines()
    assert [json.loads(line)["step"] for line in whole][: last + 1] == list(range(last + 1))
