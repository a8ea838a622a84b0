"""Models that a loss would train if they had not been frozen."""

from __future__ import annotations

from cograd.tracing import Backward, Flagged, Log, Values


def frozen_before(log: Log, event: Backward, root: int) -> tuple[Flagged, frozenset[int]] | None:
    """Where that on which a loss depends, other than through cuts, was frozen after training, and those parameters."""
    numbers = _frozen(log.values, root)
    trained = frozenset(p for e in log.of(Backward) if e.at < event.at for p in e.reached)
    switched = [f for f in log.of(Flagged) if f.at < event.at and f.parameters & numbers & trained]
    if not switched or switched[-1].on:
        return None
    off = next(f for f in reversed(switched) if not f.on)
    return off, numbers & trained


def _frozen(values: Values, root: int) -> frozenset[int]:
    """The parameters that ``root`` was computed from while they were frozen; not those behind a cut."""
    seen, stack = {root}, [root]
    while stack:
        value = values[stack.pop()]
        below = [i for i in value.inputs if i not in seen and i in values and not values[i].requires_grad]
        seen.update(below)
        stack += below
    return frozenset(p for i in seen if (p := values[i].parameter) is not None)
