"""Ctrl-C asks once, and insists the second time."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, final

_NONE = object()


@final
@dataclass(slots=True)
class Interrupt:
    """Whether Ctrl-C was pressed."""

    asked: bool = False


@contextmanager
def interruptible() -> Iterator[Interrupt]:
    """Take note of the first Ctrl-C and leave the second to whoever had it before.

    Signals arrive in the main thread only, so elsewhere nothing is caught. A process that ignores
    Ctrl-C (under ``nohup``) goes on ignoring it.
    """
    interrupt = Interrupt()
    previous = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or previous in (signal.SIG_IGN, None):
        yield interrupt
        return

    def take_note(number: int, frame: FrameType | None) -> None:
        if not interrupt.asked:
            interrupt.asked = True
        elif callable(previous):
            previous(number, frame)
        else:
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, take_note)
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
