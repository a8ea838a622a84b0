"""How far a run is, how fast it goes, and how long it will take."""

from __future__ import annotations

import time
from collections import deque
from datetime import timedelta


class Pace:
    """Measures speed over the last few marks, in this process: a resumed run was ``done`` steps far when it began.

    Attributes:
        step: how many steps are done.
        epoch: how many epochs are completed; -1 as long as that is not known.
        finished: whether no more steps come.
    """

    def __init__(self, total: int | None, epochs: int | None, done: int) -> None:
        self.total, self.epochs = total, epochs
        self.step, self.epoch = done, -1 if done else 0  # that of a resumed run is known at the first mark
        self.finished = False
        self._began = time.perf_counter()
        self._marks: deque[tuple[float, int]] = deque(maxlen=50)  # from the first step on: what is before is loading

    def mark(self, step: int, epoch: int) -> None:
        """Now ``step`` steps are done, in the epoch after ``epoch`` whole ones."""
        self.step, self.epoch = step, epoch
        self._marks.append((time.perf_counter(), step))

    @property
    def share(self) -> float | None:
        """How much of the run is over, from 0 to 1, if that is known."""
        if self.total:
            return self.step / self.total
        return (max(self.epoch, 0) + self.finished) / self.epochs if self.epochs else None

    @property
    def rate(self) -> float:
        """Steps per second; 0 until it can be told."""
        if not self._marks:
            return 0.0
        (first, before), (last, now) = self._marks[0], self._marks[-1]
        return (now - before) / (last - first) if last - first > 0.1 else 0.0

    def where(self) -> str:
        """``1234/10000``."""
        return f"{self.step}/{self.total}" if self.total else f"{self.step}"

    def which(self) -> str:
        """``epoch 3/20``, or nothing before the first step."""
        if self.epoch < 0:
            return ""
        if not self.epochs:
            return f"epoch {self.epoch + 1}"
        return f"epoch {min(self.epoch + 1, self.epochs)}/{self.epochs}"

    def speed(self) -> str:
        """``812 steps/s`` or ``2.5 s/step``."""
        rate = self.rate
        if not rate:
            return ""
        if rate < 1:
            return f"{1 / rate:.1f} s/step"
        return f"{rate:.0f} steps/s" if rate >= 100 else f"{rate:.1f} steps/s"

    def clock(self) -> str:
        """``0:10:54 left``, or how long it took, or takes so far."""
        if self.finished or not self.total:
            return f"{'took ' if self.finished else ''}{_time(time.perf_counter() - self._began)}"
        return f"{_time((self.total - self.step) / self.rate)} left" if self.rate else ""


def _time(seconds: float) -> str:
    return str(timedelta(seconds=round(max(seconds, 0))))
