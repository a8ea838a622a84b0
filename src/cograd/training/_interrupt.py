"""Ctrl-C asks once, and insists the second time."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, final


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
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        first = next(iterator)
    except StopIteration:
        return
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    yield first
    yield from iterator
