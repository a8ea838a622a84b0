"""Losses and their addends, and what was applied of their gradients."""

from __future__ import annotations

from collections.abc import Iterator

from cograd.tracing import Backward, Log, Step, Value
from cograd.tracing import sums as sums
from cograd.tracing import terms as terms


def applied(log: Log) -> dict[int, frozenset[int]]:
    """Backward -> the parameters to which a step applied its gradient."""
    found: dict[int, frozenset[int]] = {}
    for step in log.of(Step):
        for use in step.uses:
            found[use.backward] = found.get(use.backward, frozenset()) | use.parameters
    return found


def taped(log: Log) -> Iterator[tuple[Backward, Value]]:
    """The backward passes whose loss is on the tape."""
    for event in log.of(Backward):
        for root in event.roots:
            if root in log.values:
                yield event, log.values[root]
