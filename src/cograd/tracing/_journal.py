"""What the parts of a recorder share: the event log, the order of events, and the numbers of parameters."""

from __future__ import annotations

import os
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cograd.tracing import _nodes
from cograd.tracing._events import Event
from cograd.tracing._gradstate import GradState
from cograd.tracing._log import Log
from cograd.tracing._names import Names
from cograd.tracing._objects import Numbers
from cograd.tracing._sites import NOWHERE, Site, here, user_frames
from cograd.tracing._tape import Tape


class Journal:
    """The state that every part of a recording reads and adds to.

    Attributes:
        log: the events so far.
        numbers: of parameters.
        optimizers: their numbers.
        names: what the script calls them.
        grads: what each gradient is made of.
        tape: the operations of the first iterations.
        steps: optimizer steps so far.
        missing: private interfaces of torch that are not there.
        shapes: of parameters, by number.
        made: where each parameter was made.
        on_event: called with each event.
    """

    def __init__(self) -> None:
        self.log = Log()
        self.numbers: Numbers[Tensor] = Numbers()
        self.optimizers: Numbers[Optimizer] = Numbers()
        self.names = Names(self.numbers, self.optimizers)
        self.grads = GradState(self.numbers)
        self.steps = 0
        self.missing = _nodes.missing()
        self.shapes: dict[int, tuple[int, ...]] = {}
        self.made: dict[int, Site] = {}
        self.on_event: Callable[[Event], Any] = lambda event: None
        self.tape = Tape(self.numbers, lambda: (self._at, self.steps), self.failed)
        self._at = 0
        self._lock = threading.RLock()
        self._pid = os.getpid()

    def tick(self) -> int:
        """The next place in the order of events."""
        self._at += 1
        return self._at

    def append(self, event: Event) -> None:
        """Keep an event; when it is the first of its kind, learn names from the user's variables."""
        if event.site is not NOWHERE and event.key not in self.log:
            self.names.learn(user_frames())
        self.log.append(event)
        self.on_event(event)

    def failed(self, error: BaseException) -> None:
        """Note that the recording itself went wrong."""
        where = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{type(error).__name__}: {error} ({where.filename.rpartition('/')[2]}:{where.lineno})"
        if text not in self.log.failures and len(self.log.failures) < 20:
            self.log.failures.append(text)

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Let a failure of the recording be noted, and not stop the script."""
        with self.tape.resting():
            try:
                with self._lock:
                    yield
            except Exception as error:
                self.failed(error)

    def ours(self) -> bool:
        """Whether to record here: not in a forked process, and not while a graph is compiled."""
        return os.getpid() == self._pid and not torch.compiler.is_compiling()

    def known(self) -> list[tuple[Tensor, int]]:
        """Every parameter that exists and has a shape."""
        return [(p, n) for p, n in self.numbers.living() if p.is_leaf and not nn.parameter.is_lazy(p)]

    def number(self, parameter: Tensor, made: Site | None = None) -> int:
        """The number of a parameter."""
        n = self.numbers.of(parameter)
        if n not in self.shapes:
            self.shapes[n] = tuple(parameter.shape) if not nn.parameter.is_lazy(parameter) else ()
            self.made[n] = made or here()
        return n
