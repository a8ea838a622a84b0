"""Losses that are trained together, and how strongly each pulls at each model, in the first iterations."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from cograd.tracing import Addend, Backward, Log, Pulled, Site, Step, added

ENOUGH = 3  # iterations before anything is said
_HANDFUL = 16

Key = tuple[Hashable, ...]


@dataclass(frozen=True, slots=True)
class Loss:
    """A loss, or an addend of one, in one iteration.

    Attributes:
        key: the same in each iteration.
        name: in the user's words.
        site: the line where it is computed, or that of the backward for a whole loss.
        addend: what was measured.
        place: among all that was measured then.
        trained: optimizer -> the parameters to which it applied the gradient of this loss.
    """

    key: Key
    name: str
    site: Site
    addend: Addend
    place: int
    trained: dict[int, frozenset[int]]

    @property
    def parameters(self) -> frozenset[int]:
        """All that it trains."""
        return frozenset().union(*self.trained.values())


@dataclass(frozen=True, slots=True)
class Moment:
    """The losses between two optimizer steps of which some optimizer applied the gradients."""

    event: Pulled
    losses: tuple[Loss, ...]

    def inner(self, a: Collection[Loss], b: Collection[Loss], parameters: Iterable[int]) -> float:
        """The inner product of the gradients of two sums of losses for these parameters."""
        found = self.event.inner
        return sum(found[p][x.place][y.place] for p in parameters if p in found for x in a for y in b)

    def norm(self, losses: Collection[Loss], parameters: Collection[int]) -> float:
        """The length of the gradient of a sum of losses for these parameters."""
        return math.sqrt(max(self.inner(losses, losses, parameters), 0.0))

    def cosine(self, a: Loss, b: Loss, parameters: Collection[int]) -> float | None:
        """The cosine between the gradients of two losses; None if one of them is zero."""
        lengths = self.norm([a], parameters) * self.norm([b], parameters)
        return self.inner([a], [b], parameters) / lengths if lengths else None


def moments(log: Log) -> Iterator[Moment]:
    """What was measured, in order."""
    applied: defaultdict[int, dict[int, frozenset[int]]] = defaultdict(dict)
    for step in log.of(Step):
        for use in step.uses:
            if not use.again:
                held = applied[use.backward].get(step.optimizer, frozenset())
                applied[use.backward][step.optimizer] = held | use.parameters
    for event in log.of(Pulled):
        found = [_loss(log, event, i, applied[addend.backward]) for i, addend in enumerate(event.addends)]
        losses = tuple(loss for loss in found if loss.parameters)
        if losses:
            yield Moment(event, losses)


def _loss(log: Log, event: Pulled, place: int, applied: dict[int, frozenset[int]]) -> Loss:
    addend = event.addends[place]
    trained = {n: own for n, numbers in applied.items() if (own := numbers & addend.reached)}
    if not addend.values:
        return Loss((addend.site,), addend.loss, addend.site, addend, place, trained)
    places = [_places(log, other) for other in event.addends]
    others = {p for i, theirs in enumerate(places) if i != place for p in theirs}
    site = next((p for p in places[place] if p not in others), places[place][0])
    crowded = any((other.file, other.line) == (site.file, site.line) for other in others)
    like = [p for p in places[:place] if p[:1] == places[place][:1]]
    name = site.text if crowded or site.target == addend.loss else site.target or site.text
    return Loss((addend.site, site, len(like)), name, site, addend, place, trained)


def _places(log: Log, addend: Addend) -> tuple[Site, ...]:
    """The line where an addend is computed, and the calls around it; that of the backward for a whole loss."""
    if not addend.values:
        return (addend.site,)
    value = log.values[addend.values[0]]
    return value.site, *value.callers


def by_model(log: Log, parameters: Iterable[int]) -> dict[str, frozenset[int]]:
    """Parameters by the model that they belong to; a handful of learned numbers, such as log-variances, is none."""
    found: defaultdict[str, set[int]] = defaultdict(set)
    for p in parameters:
        if p in log.parameters:
            found[log.parameters[p].model or log.parameters[p].name].add(p)
    return {
        name: frozenset(own)
        for name, own in found.items()
        if name and sum(math.prod(log.parameters[p].shape) for p in own) > _HANDFUL
    }


def where_added(log: Log, loss: Loss) -> Site:
    """The line where a loss enters its total; that of its backward if it is one."""
    for event in log.of(Backward):
        if event.at == loss.addend.backward and loss.addend.values:
            found = [added(log.values, root, loss.addend.values[0]) for root in event.roots]
            return next((total.site for total in found if total is not None), loss.site)
    return loss.site


def percent(share: float) -> str:
    """``0.3 %``."""
    return f"{100 * share:.1g} %" if share < 0.095 else f"{100 * share:.0f} %"


def mean(numbers: Sequence[float]) -> float:
    """Their mean."""
    return sum(numbers) / len(numbers)
