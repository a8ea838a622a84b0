"""Trains in child processes that are killed and started again: ``python killed_training.py FOLDER SEED``.

Forks, so that torch is imported once. Each child is the same command on the same run directory, until one ends by
itself. The random moments follow from SEED; a forced one is a place in the training and how often it is passed before.
"""

import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch._dynamo  # what the first step of an optimizer would import in every child
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import cograd
from cograd.training.loggers import CSV

KILLS = 30
FORCED = {  # one run each; a place, and how often this process has passed it before
    "steps-often": [
        ("step", 0),
        ("step", 7),
        ("step", 12),
        ("step", 13),
    ],  # in the first phase of a step, or in its second
    "files-often": [
        ("begin writing", 0),
        ("begin writing", 1),
        ("synced", 0),
        ("synced", 9),
        ("named", 0),
        ("named", 4),
    ],
    "names-often": [("synced", 4), ("named", 2), ("removed", 0), ("removed", 1), ("begin writing", 2)],
    "logs-often": [("logged", 0), ("logged", 3), ("logged", 2), ("checkpoint", 0), ("checkpoint", 2)],
    "ends-often": [("epoch", 0), ("validation", 0), ("validation", 1), ("epoch", 1), ("finish", 0)],
    "last-epochs": [("checkpoint", 7)],  # after the last validation, before the run is finished
}

RHYTHMS = {  # an epoch has seven steps
    "often": {"epochs": 4, "log_every": 4, "save_every": 5},
    "epochs": {"epochs": 4, "log_every": 5, "validate_every": 7},
    "brief": {"epochs": 1, "log_every": 4, "validate_every": 7},
}
LAST = 24  # calls of the system that change files, at the end of the brief run: a kill before each of them


class Killer:
    """Kills this very process at a place, when it is passed for the n-th time."""

    def __init__(self, place: str, n: int) -> None:
        self.place, self.left = place, n

    def __call__(self, place: str) -> None:
        if place == self.place:
            self.left -= 1
            if self.left < 0:
                os.kill(os.getpid(), signal.SIGKILL)


class Counting:
    """Counts how often a place is passed."""

    def __init__(self, place: str, path: Path) -> None:
        self.place, self.path, self.n = place, path, 0

    def __call__(self, place: str) -> None:
        if place == self.place:
            self.n += 1
            self.path.write_text(str(self.n))


def wrapped(function: Callable, before: Callable[[], None] | None = None, after: Callable[[], None] | None = None):
    def call(*arguments, **named):
        if before:
            before()
        result = function(*arguments, **named)
        if after:
            after()
        return result

    return call


def train(run_dir: Path, reached: Callable[[str], None]) -> None:
    """The script that a user would write, with places to die at."""
    torch.save = wrapped(torch.save, before=lambda: reached("begin writing"))

    def sync(file):  # a killed process loses nothing that it has handed to the system
        reached("call")
        reached("synced")

    os.fsync = sync
    for name in ("link", "replace", "rename"):
        setattr(os, name, wrapped(getattr(os, name), lambda: reached("call"), lambda: reached("named")))
    os.unlink = wrapped(os.unlink, lambda: reached("call"), lambda: reached("removed"))

    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    trunk = nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.3))
    models = {"trunk": trunk, "digit": nn.Linear(12, 3), "parity": nn.Linear(12, 1)}
    x = torch.randn(50, 6)
    data = TensorDataset(x, x[:, :3].argmax(1))

    def losses(m, batch):
        reached("step")
        x, y = batch
        h = m.trunk(x)
        return {
            "digit": nn.functional.cross_entropy(m.digit(h), y),
            "parity": nn.functional.binary_cross_entropy_with_logits(m.parity(h)[:, 0], (y % 2).float()),
        }

    joint = cograd.Joint(
        models=models,
        losses=losses,
        trains={"parity": ["parity", "trunk"]},
        optimizers={name: torch.optim.Adam(model.parameters(), lr=0.01) for name, model in models.items()},
        weighting=cograd.weighting.Random(),
        phases=[*cograd.together("trunk", "digit"), cograd.Phase("parity", every=2)],
        clip={"trunk": 1.0},
        accumulate={"digit": 3},
        schedulers={"trunk": partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=25)},
        followers={"ema": cograd.EMA("trunk", 0.9)},
        grad_norms=True,
    )

    class Dying(CSV):
        def log(self, values, step):
            super().log(values, step)
            reached("logged")

    cograd.fit(
        joint,
        DataLoader(data, batch_size=8, shuffle=True),
        validate=DataLoader(data, batch_size=30, shuffle=True),
        freeze={"parity": cograd.MaxSteps(20)},
        stop=cograd.Plateau("val/parity", patience=4) | cograd.Plateau("loss/digit", patience=50),
        best="val/digit",
        run_dir=run_dir,
        loggers=[Dying()],
        keep=2,
        progress=False,
        on={
            event: partial(lambda event, run: reached(event), event)
            for event in ("validation", "epoch", "checkpoint", "finish")
        },
        **RHYTHMS[run_dir.name.split("-")[-1]],
    )


def child(run_dir: Path, reached: Callable[[str], None] = lambda place: None) -> int:
    """Start training in a process of its own."""
    pid = os.fork()
    if not pid:
        try:
            train(run_dir, reached)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return pid


def ended(pid: int) -> int | None:
    """The signal that ended the child; None if it ended well."""
    status = os.waitpid(pid, 0)[1]
    if os.WIFSIGNALED(status):
        return os.WTERMSIG(status)
    if code := os.waitstatus_to_exitcode(status):
        raise SystemExit(f"a run failed with code {code}")
    return None


def main(folder: Path, seed: int) -> None:
    """One run that is left alone, those that are killed at places, and those that are killed at random moments."""
    begin = time.perf_counter()
    assert ended(child(folder / "whole-epochs")) is None
    begin = time.perf_counter()
    assert ended(child(folder / "whole-often")) is None
    duration = time.perf_counter() - begin
    for name, places in FORCED.items():
        for place, n in places:
            if ended(child(folder / name, Killer(place, n))) != signal.SIGKILL:
                raise SystemExit(f"{name}: {place} was not passed {n + 1} times")
        assert ended(child(folder / name)) is None
    counted = folder / "calls"
    assert ended(child(folder / "whole-brief", Counting("call", counted))) is None
    calls = int(counted.read_text())
    for n in range(calls - LAST, calls):
        if ended(child(folder / f"call{n}-brief", Killer("call", n))) != signal.SIGKILL:
            raise SystemExit(f"there were not {n + 1} calls")
        assert ended(child(folder / f"call{n}-brief")) is None
    moments, kills, runs = random.Random(seed), 0, 0
    while kills < KILLS:
        over = False
        while not over:
            pid = child(folder / f"random-{runs}-{('often', 'epochs')[runs % 2]}")
            if kills < KILLS:
                time.sleep(moments.uniform(0, duration / 2))
                os.kill(pid, signal.SIGKILL)  # a child that has ended waits for us, so its number is still its own
            over = ended(pid) is None
            kills += not over
        runs += 1
    print(json.dumps({"kills": kills, "runs": runs, "seconds": time.perf_counter() - begin}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
