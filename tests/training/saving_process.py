"""A process that saves checkpoints and comes to grief, for test_killed.py: one order a line in, one answer a line out.

torch is loaded once; each order is carried out in a fork, which may be killed.
"""

import json
import os
import random
import resource
import select
import signal
import sys
from pathlib import Path

import torch

from cograd.errors import CheckpointError
from cograd.training import _checkpoint
from cograd.training._checkpoints import Checkpoints

SIZE = 30_000


def loss(step):
    return -float(step + step * 37 % 50)  # a new best at some steps, not at others


def save(checkpoints, step, size=SIZE):
    state = {"step": step, "x": torch.full((size,), float(step))}
    return checkpoints.save(state, step, {"loss": loss(step)})


def checkpoints(folder):
    return Checkpoints(folder, keep=2, best="loss")


def killed_at_random(order):
    """Save one step after the other, and be killed at a random moment after the first."""
    inbox, outbox = os.pipe()
    child = os.fork()
    if child == 0:
        with checkpoints(order["folder"]) as mine:
            found = mine.newest()
            step = found[0]["step"] if found else 0
            while True:
                step += 1
                save(mine, step)
                os.write(outbox, b"%d\n" % step)
    os.close(outbox)
    told = os.read(inbox, 100)
    select.select([], [], [], random.Random(order["seed"]).uniform(0, 0.05))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while more := os.read(inbox, 65536):
        told += more
    os.close(inbox)
    return {"acknowledged": int(told.split()[-1])}


class HashingInHalves(_checkpoint._Hashing):
    """Calls ``half`` when half of a checkpoint has been written."""

    written = 0

    def write(self, data):
        if self.written < 2 * SIZE <= self.written + len(data):
            self.half()
        self.written += len(data)
        return super().write(data)


def killed_at_call(order):
    """Save one step more, and be killed just before the n-th call that changes something."""
    child = os.fork()
    if child == 0:
        left = order["call"]

        def counted(function):
            def call(*args, **options):
                nonlocal left
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                left -= 1
                return function(*args, **options)

            return call

        def no_links(*args, **options):
            raise PermissionError(1, "Operation not permitted")

        with checkpoints(order["folder"]) as mine:
            step = mine.newest()[0]["step"] + 1
            _checkpoint._Hashing = HashingInHalves
            HashingInHalves.half = staticmethod(counted(lambda: None))
            os.link = os.link if order["links"] else no_links
            for name in ("fsync", "link", "open", "replace", "unlink"):
                setattr(os, name, counted(getattr(os, name)))
            save(mine, step)
            os._exit(0)
    return {"killed": os.waitpid(child, 0)[1] == signal.SIGKILL}


def killed_with_worker(order):
    """Be killed while a forked worker lives on, as those of a loader do for some seconds."""
    inbox, outbox = os.pipe()
    child = os.fork()
    if child == 0:
        with checkpoints(order["folder"]) as mine:
            save(mine, 1)
            worker = os.fork()
            if worker == 0:
                os.write(outbox, b"%d" % os.getpid())
                signal.pause()
            signal.pause()
    worker = int(os.read(inbox, 100))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    for end in (inbox, outbox):
        os.close(end)
    return {"worker": worker}


def _answer_of_fork(act):
    inbox, outbox = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            act()
            answer = "nothing was refused"
        except CheckpointError as error:
            answer = str(error)
        os.write(outbox, answer.encode())
        os._exit(0)
    os.waitpid(child, 0)
    answer = os.read(inbox, 65536).decode()
    for end in (inbox, outbox):
        os.close(end)
    return {"error": answer}


def no_room(order):
    """Files may not become larger than the checkpoint that is there, and the next one is."""

    def act():
        with checkpoints(order["folder"]) as mine:
            path = save(mine, 1)
            resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 1000,) * 2)
            save(mine, 2, 10 * SIZE)

    return _answer_of_fork(act)


def read_only(order):
    """The folder cannot be written: from the start, or from when there is a checkpoint."""

    def act():
        os.chdir(order["folder"])
        if not order["from_start"]:
            with checkpoints(Path()) as mine:
                save(mine, 1)
                _lose_rights()
                save(mine, 2)
        _lose_rights()
        with checkpoints(Path()):
            pass

    return _answer_of_fork(act)


def _lose_rights():
    Path().chmod(0o555)
    if os.geteuid() == 0:  # who may write whatever the mode says
        os.seteuid(65534)


if __name__ == "__main__":
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        print(json.dumps(globals()[order["what"]](order)), flush=True)
