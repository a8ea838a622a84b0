"""Measures what gradients cost that no step applies: beside the script, in pairs, a few times."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import torch
from torch import Tensor

from cograd.tracing import _beside
from cograd.tracing import _events as events
from cograd.tracing._journal import Journal
from cograd.tracing._sites import Site

_PAIRS = 15
_FEWEST = 5
_SECONDS = 1.0  # for one line
_LINES = 5


class Timings:
    """Differentiates a loss for all that it reaches, and only for what is used, in turn on one graph.

    It waits until gradients of a line were thrown away, and measures when that line runs next. Where an extra pass
    could be noticed, none is made, and nothing is said of time.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._wasted: dict[Site, frozenset[int]] = {}
        self._reached: dict[Site, frozenset[int]] = {}
        self._done: set[Site] = set()
        self._thread = threading.get_ident()

    def starting(self, site: Site, roots: tuple[Tensor, ...], plain: bool) -> None:
        """A backward is about to run."""
        wasted, reached = self._wasted.get(site, frozenset()), self._reached.get(site, frozenset())
        if site in self._done or len(self._done) >= _LINES or not (plain and wasted and reached - wasted):
            return
        self._done.add(site)
        tape = self._journal.tape
        if threading.get_ident() != self._thread or any(t.numel() != 1 for t in roots):
            return
        if not _beside.followed(tape.values, [tape.value_of(t) for t in roots]):
            return
        with _beside.unseen():
            graph = _beside.look(roots)
            if graph.obstacle:
                return
            numbers = [self._journal.numbers.get(leaf) for leaf in graph.leaves]
            every = [leaf for n, leaf in zip(numbers, graph.leaves, strict=True) if n in reached]
            used = [leaf for n, leaf in zip(numbers, graph.leaves, strict=True) if n in reached - wasted]
            pairs = _pairs(roots, every, used) if used else ()
        if pairs:
            self._journal.append(events.Timed(self._journal.tick(), site, pairs))

    def happened(self, event: events.Event) -> None:
        """Gradients came, or were cleared."""
        if isinstance(event, events.Backward):
            self._reached[event.site] = event.reached
        elif isinstance(event, events.Cleared):
            for use in event.dropped:
                self._wasted[use.site] = use.parameters


def _pairs(roots: Sequence[Tensor], every: Sequence[Tensor], used: Sequence[Tensor]) -> tuple[tuple[float, float], ...]:
    """Seconds of both, where each goes first every other time; without those of the first pair, which warms up."""
    begin, pairs = time.perf_counter(), list[tuple[float, float]]()
    try:
        while len(pairs) <= _PAIRS and (len(pairs) <= _FEWEST or time.perf_counter() - begin < _SECONDS):
            if len(pairs) % 2:
                less, more = _seconds(roots, used), _seconds(roots, every)
            else:
                more, less = _seconds(roots, every), _seconds(roots, used)
            pairs.append((more, less))
    except RuntimeError:  # the script's own backward will say the same, or has more memory
        return ()
    return tuple(pairs[1:])


def _seconds(roots: Sequence[Tensor], inputs: Sequence[Tensor]) -> float:
    device = roots[0].device
    _wait(device)
    begin = time.perf_counter()
    _beside.gradients(roots, inputs)
    _wait(device)
    return time.perf_counter() - begin


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
