"""A run that is killed at any moment, and started again with the same command, ends as if nothing had happened."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cograd.training import Checkpoints

SCRIPT = Path(__file__).with_name("killed_training.py")


def without_seconds(state):
    return {key: value for key, value in state.items() if key not in ("seconds", "loggers")}


def jsonl(run_dir):
    lines = [json.loads(line) for line in (run_dir / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def table(run_dir):
    with (run_dir / "log.csv").open() as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("killed")
    command = [sys.executable, str(SCRIPT), str(folder), "0"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout)


@pytest.mark.parametrize("rhythm", ["often", "epochs"])
def test_parameters_optimizers_logs_and_best_are_the_same_to_the_last_bit(runs, rhythm, same):
    folder, report = runs
    assert report["kills"] == 30
    killed = [run_dir for run_dir in folder.glob(f"*-{rhythm}") if not run_dir.name.startswith("whole")]
    assert len(killed) == (5 if rhythm == "often" else 1) + (report["runs"] + (rhythm == "often")) // 2
    whole = folder / f"whole-{rhythm}"
    state, best = Checkpoints(whole / "checkpoints").newest()[0], Checkpoints(whole / "checkpoints").best_state()[0]
    assert state["finished"]
    assert state["step"] == 28
    for run_dir in killed:
        checkpoints = Checkpoints(run_dir / "checkpoints")
        same(without_seconds(state), without_seconds(checkpoints.newest()[0]), f"{run_dir.name}: ")
        same(without_seconds(best), without_seconds(checkpoints.best_state()[0]), f"{run_dir.name}, best: ")
        assert jsonl(run_dir) == jsonl(whole), run_dir.name
        assert table(run_dir) == table(whole), run_dir.name
        assert len(list(checkpoints.folder.glob("step-*"))) == 2, run_dir.name


@pytest.mark.parametrize(
    ("rhythm", "steps"), [("often", [4, 8, 12, 16, 20, 24, 28]), ("epochs", [5, 10, 15, 20, 25, 28])]
)
def test_the_uninterrupted_run_logs_every_step_once(runs, rhythm, steps):
    lines = jsonl(runs[0] / f"whole-{rhythm}")
    assert [line["step"] for line in lines if "loss/digit" in line] == steps
    assert [line["step"] for line in lines if "val/digit" in line] == [7, 14, 21, 28]


def kinds(run_dir):
    """What the names of the checkpoints say, but for their hashes."""
    return sorted(path.name[:13] for path in (run_dir / "checkpoints").glob("*.pt"))


def test_killed_before_any_call_of_the_last_saves(runs, same):
    """Nothing more remains than where nothing was killed, though the run may have had nothing left to save."""
    whole = runs[0] / "whole-brief"
    state = Checkpoints(whole / "checkpoints").newest()[0]
    assert kinds(whole) == ["best-00000007", "step-00000000", "step-00000007"]
    killed = list(runs[0].glob("call*-brief"))
    assert len(killed) == 24
    for run_dir in killed:
        assert kinds(run_dir) == kinds(whole), run_dir.name
        same(without_seconds(state), without_seconds(Checkpoints(run_dir / "checkpoints").newest()[0]), run_dir.name)
        assert jsonl(run_dir) == jsonl(whole)
