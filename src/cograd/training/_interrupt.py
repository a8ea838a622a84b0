"""Ctrl-C asks once, and insists the second time."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any, final

_NONE = object()


@final
@dataclass(slots=True)
class Interrupt:
    """Whether Ctrl-C was pressed, and whether once more."""

    asked: bool = False
    insisted: bool = False


@final
@dataclass(frozen=True, slots=True)
class _Noting:
    """Handles Ctrl-C for one ``fit``, and for that in whose callback it runs."""

    interrupt: Interrupt
    previous: Any
    say: bool

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if not self.interrupt.asked:
            self.ask()
            if self.say:
                with suppress(OSError):  # nobody reads it; print is not safe in the middle of another print
                    os.write(2, b"\nfinishing this step and saving; Ctrl-C again stops at once\n")
            return
        self.interrupt.insisted = True
        if not callable(self.previous):
            raise KeyboardInterrupt
        self.previous(number, frame)

    def ask(self) -> None:
        self.interrupt.asked = True
        if isinstance(self.previous, _Noting):
            self.previous.ask()


@contextmanager
def interruptible(say: bool = False) -> Iterator[Interrupt]:
    """Take note of the first Ctrl-C and leave the second to whoever had it before.

    Signals arrive in the main thread only, so elsewhere nothing is caught. A process that ignores
    Ctrl-C (under ``nohup``) goes on ignoring it.
    """
    interrupt = Interrupt()
    previous = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or previous in (signal.SIG_IGN, None):
        yield interrupt
        return
    signal.signal(signal.SIGINT, _Noting(interrupt, previous, say))
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, previous)


def with_deaf_workers(batches: Iterable[Any]) -> Iterator[Any]:
    """The batches, from workers that get no Ctrl-C.

    A terminal sends it to all processes. Workers would die of it, and the loader with them, while the
    step in flight is still to be finished. They are started where the first batch is asked for.
    """
    iterator = iter(batches)
    with _deaf_children():
        first = next(iterator, _NONE)
    if first is not _NONE:
        yield first
        yield from iterator


@contextmanager
def _deaf_children() -> Iterator[None]:
    """Both ways to be deaf are inherited. Blocking loses no signal, but starting a process by spawn unblocks."""
    handler = signal.getsignal(signal.SIGINT)
    ours = threading.current_thread() is threading.main_thread() and handler is not None
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        if ours:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        yield
    finally:
        if ours:
            signal.signal(signal.SIGINT, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
