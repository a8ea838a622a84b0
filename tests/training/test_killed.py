"""Whatever moment a run is killed at, and whatever the disk refuses: the checkpoints that were there are there."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cograd.training._checkpoints import Checkpoints

SCRIPT = Path(__file__).with_name("saving_process.py")
KEEP = 2


@pytest.fixture(scope="module")
def order():
    with subprocess.Popen(
        [sys.executable, SCRIPT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert json.loads(process.stdout.readline()) == {"ready": True}

        def ask(what, folder, **details):
            process.stdin.write(json.dumps({"what": what, "folder": str(folder), **details}) + "\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())

        yield ask
        process.stdin.close()


def loss(step):
    return -float(step + step * 37 % 50)


def complete(found):
    """The step of a state that is all there."""
    state, path = found
    assert torch.equal(state["x"], torch.full_like(state["x"], state["step"]))
    assert torch.load(path, weights_only=True)["state"]["step"] == state["step"]
    return state["step"]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_run_that_is_killed_at_random_moments_keeps_its_newest_and_its_best(order, tmp_path):
    reached = []
    for seed in range(20):
        acknowledged = order("killed_at_random", tmp_path, seed=seed)["acknowledged"]
        newest = complete(Checkpoints(tmp_path).newest())
        assert newest >= acknowledged
        assert complete(Checkpoints(tmp_path).best_state()) == min(range(1, newest + 1), key=loss)
        reached.append(newest)
    assert reached == sorted(set(reached))  # each run went on from the one before

    with Checkpoints(tmp_path, keep=KEEP, best="loss") as checkpoints:
        assert not [name for name in names(tmp_path) if name.endswith(".tmp")]
        checkpoints.newest()
        checkpoints.save({}, reached[-1] + 1, {"loss": loss(reached[-1] + 1)})
    kinds = [name.split("-")[0] for name in names(tmp_path)]
    assert (kinds.count("step"), kinds.count("best")) == (KEEP, 1)


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("steps", [3, 2], ids=["worse", "new best"])
def test_killed_before_any_call_of_a_save(order, tmp_path, links, steps):
    before = tmp_path / "before"
    losses = {1: 0.0, 2: -1.0, 3: -200.0}  # that of the next, by loss(), is between
    with Checkpoints(before, keep=KEEP, best="loss") as checkpoints:
        for step in range(1, steps + 1):
            state = {"step": step, "x": torch.full((100,), float(step))}
            checkpoints.save(state, step, {"loss": losses[step]})
    best_after = steps if steps == 3 else steps + 1

    outcomes = []
    for call in range(1000):
        folder = tmp_path / str(call)
        shutil.copytree(before, folder, copy_function=os.link)
        killed = order("killed_at_call", folder, call=call, links=links)["killed"]
        newest = complete(Checkpoints(folder).newest())
        assert complete(Checkpoints(folder).best_state()) == (steps if newest == steps else best_after)
        outcomes.append(newest)
        with Checkpoints(folder, keep=KEEP, best="loss") as checkpoints:  # and it goes on
            checkpoints.newest()
            checkpoints.save({"step": 9, "x": torch.full((100,), 9.0)}, 9, {"loss": 0.0})
        assert complete(Checkpoints(folder).newest()) == 9
        assert complete(Checkpoints(folder).best_state()) == (steps if newest == steps else best_after)
        assert not [name for name in names(folder) if name.endswith(".tmp")]
        if not killed:
            break
    assert outcomes == sorted(outcomes)
    assert set(outcomes) == {steps, steps + 1}
    assert len(outcomes) >= 8


def test_a_worker_that_outlives_its_killed_parent_does_not_hold_the_folder(order, tmp_path):
    worker = order("killed_with_worker", tmp_path)["worker"]
    try:
        os.kill(worker, 0)  # it is alive
        with Checkpoints(tmp_path) as checkpoints:
            assert complete(checkpoints.newest()) == 1
    finally:
        os.kill(worker, signal.SIGKILL)


def test_files_may_not_become_so_large(order, tmp_path):
    said = order("no_room", tmp_path)["error"]
    kept = Checkpoints(tmp_path).newest()
    assert complete(kept) == complete(Checkpoints(tmp_path).best_state()) == 1
    assert f"No checkpoint of step 2 in {tmp_path}: File too large." in said
    assert f"the newest is {kept[1].name}" in said
    assert names(tmp_path) == [".lock", "best" + kept[1].name.removeprefix("step"), kept[1].name]


def test_a_folder_that_becomes_read_only(order, tmp_path):
    said = order("read_only", tmp_path, from_start=False)["error"]
    tmp_path.chmod(0o755)
    kept = Checkpoints(tmp_path).newest()
    assert complete(kept) == complete(Checkpoints(tmp_path).best_state()) == 1
    assert "No checkpoint of step 2 in .: Permission denied. Make it writable, or choose another place." in said
    assert f"the newest is {kept[1].name}" in said


def test_a_folder_that_is_read_only_from_the_start(order, tmp_path):
    said = order("read_only", tmp_path, from_start=True)["error"]
    tmp_path.chmod(0o755)
    assert said == ". cannot hold checkpoints: Permission denied. Make it writable, or choose another place."
    assert names(tmp_path) == []
