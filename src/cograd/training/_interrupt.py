"""Ctrl-C asks once, and insists the second time."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import final


@final
@dataclass(slots=True)
class Interrupt:
    """Whether Ctrl-C was pressed."""

    asked: bool = False


@contextmanager
def interruptible() -> Iterator[Interrupt]:
    """Take note of the first Ctrl-C and leave the second to whoever had it before.

    Signals arrive in the main thread only, so elsewhere nothing is caught. A process that ignores
    Ctrl-C (under ``nohup``) goes on ignoring it. Workers that are forked inside take note too,
    instead of dying under a loader that is still needed.
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
