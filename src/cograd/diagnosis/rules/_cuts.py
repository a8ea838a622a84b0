"""Where data flows on from parameters and gradients do not flow back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from cograd.diagnosis._finding import Related
from cograd.diagnosis.rules._terms import applied, sums, taped, terms
from cograd.tracing import ESCAPES, Backward, Cut, Log, Site, Value, below, cut, reached


def primary(log: Log, found: Cut, backward: Backward) -> Site:
    """The line to change: that of the cut, or, where other losses need the cut, the first one after it.

    A fake that was detached for the discriminator is rightly detached; the generator's loss has to use another.
    """
    others = _others(log, backward.site)
    at = found.path[-1]
    for value in reversed(found.path):
        if value.id not in others:
            at = value
            break
    else:
        at = found.path[0]
    return at.site


def _others(log: Log, site: Site) -> set[int]:
    return {v.id for event, root in taped(log) if event.site != site for v in below(log.values, root.id)}


@dataclass(frozen=True, slots=True)
class Inert:
    """An addend of a loss that moves nothing, although it depends on what the loss trains."""

    backward: Backward
    term: Value
    cut: Cut
    wanted: frozenset[int]
    site: Site
    only: bool  # the loss has no other addend


@lru_cache(maxsize=2)
def inert(log: Log) -> tuple[Inert, ...]:
    """The addends without effect, of all losses on the tape."""
    return tuple(_inert(log))


def _inert(log: Log) -> Iterator[Inert]:
    stepped, values = applied(log), log.values
    for event, root in taped(log):
        trained = stepped.get(event.at, frozenset())
        addends = list(terms(values, root.id))
        for term in addends:
            if reached(values, term.id) & trained:
                continue
            wanted = reached(values, term.id, differentiable=False) & trained
            found = cut(values, term.id, wanted) if wanted else None
            if found is not None:
                yield Inert(event, term, found, wanted, primary(log, found, event), len(addends) == 1)


def numbers(log: Log) -> Iterator[tuple[Backward, Value, Value]]:
    """Losses to which a number is added that was read from a tensor of the same iteration: loss, sum, reading."""
    pairs: dict[tuple[Site, Site], list[tuple[float, float, Backward, Value, Value]]] = {}
    values = log.values
    readings = [v for v in values.values() if v.op in ESCAPES and v.number is not None]
    for event, root in taped(log):
        for total in sums(values, root.id):
            for number in total.numbers:
                for reading in readings:
                    near = 0 < total.id - reading.id < 2000 and event.steps - 1 <= reading.steps <= event.steps
                    if near and reading.number:
                        pair = number / reading.number, reading.number, event, total, reading
                        pairs.setdefault((total.site, reading.site), []).append(pair)
    for seen in pairs.values():
        ratios = [ratio for ratio, *_ in seen if ratio]
        steady = [s for s in seen if ratios and any(abs(s[0] - r) <= 1e-6 * abs(r) for r in ratios if r is not s[0])]
        different = {s[1] for s in steady}
        if len(different) > 1 or (len(seen) == 1 and seen[0][0] == 1.0):
            first = (steady or seen)[0]
            yield first[2], first[3], first[4]


def story(event: Backward, found: Cut) -> tuple[Related, ...]:
    """The cut and the backward, as lines of a finding."""
    return Related("cut", found.value.site, found.phrase), Related("backward", event.site, "")


__all__ = ["Cut", "Inert", "cut", "inert", "numbers", "primary", "story"]
