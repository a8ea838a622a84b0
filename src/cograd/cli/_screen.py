"""Where output goes: a terminal with a progress bar, or plain lines that read well in a log file."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

_WIDTH_OF_A_LOG = 160


class Show(Protocol):
    """How far the work is."""

    def start(self, name: str) -> None:
        """Work on ``name`` begins."""

    def advance(self, what: str, share: float) -> None:
        """``what`` is being done for it, and this share of its work is over."""

    def finish(self, outcome: str) -> None:
        """It is done; ``outcome`` is a line of text."""


def console() -> Console:
    """The console on stdout. A log file has room for the table; a terminal is as wide as it is."""
    screen = Console(markup=False, highlight=False, emoji=False)
    if not screen.is_terminal and "COLUMNS" not in os.environ:
        screen.width = _WIDTH_OF_A_LOG
    return screen


@contextmanager
def progress(screen: Console, count: int) -> Iterator[Show]:
    """Show progress on ``count`` recipes: a bar where it can move, else a line for each that is done."""
    if not screen.is_interactive:
        yield _Lines(screen, count)
        return
    columns = (BarColumn(24), TextColumn("{task.fields[rank]}"), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=screen, transient=True) as bar:
        yield _Bar(bar, count)


class _Lines:
    def __init__(self, screen: Console, count: int) -> None:
        self._screen, self._count = screen, count
        self._done, self._name, self._began = 0, "", 0.0

    def start(self, name: str) -> None:
        self._name, self._began = name, time.perf_counter()

    def advance(self, what: str, share: float) -> None:
        pass

    def finish(self, outcome: str) -> None:
        self._done += 1
        took = time.perf_counter() - self._began
        self._screen.print(f"[{self._done}/{self._count}] {self._name}  {outcome}  {took:.1f} s", soft_wrap=True)
        self._screen.file.flush()


class _Bar:
    def __init__(self, bar: Progress, count: int) -> None:
        self._bar, self._count = bar, count
        self._done, self._name = 0, ""
        self._task = bar.add_task("", total=count, rank="")

    def start(self, name: str) -> None:
        self._name = name
        self._bar.update(self._task, rank=f"recipe {self._done + 1} of {self._count}")

    def advance(self, what: str, share: float) -> None:
        self._bar.update(self._task, description=f"{what} {self._name}", completed=self._done + share)

    def finish(self, outcome: str) -> None:
        self._done += 1
        self._bar.update(self._task, completed=self._done)
