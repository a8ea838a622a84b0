"""Where data flows on from parameters and gradients do not flow back."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import lru_cache

from cograd.diagnosis._finding import Related
from cograd.diagnosis.rules._terms import applied, sums, taped, terms
from cograd.tracing import ESCAPES, Backward, Log, Site, Value, Values, below, reached

_REWRAPS = frozenset({"tensor", "as_tensor", "asarray", "from_numpy", "FloatTensor", "Tensor"})


@dataclass(frozen=True, slots=True)
class Cut:
    """A place where a gradient stops.

    Attributes:
        value: the first value without gradient.
        kind: what cut it, such as ``detach``.
        phrase: the same in words, to be followed by the line.
        path: the values from the loss, or one of its addends, down to the cut.
    """

    value: Value
    kind: str
    phrase: str
    path: tuple[Value, ...]


def cut(values: Values, root: int, wanted: Collection[int]) -> Cut | None:
    """The cut nearest to ``root`` between it and a parameter in ``wanted``."""
    above: dict[int, int | None] = {root: None}
    queue = deque([root])
    while queue:
        value = values[queue.popleft()]
        for i in value.inputs:
            if i not in values:
                continue
            if not value.requires_grad and values[i].requires_grad:
                if reached(values, i, differentiable=False).intersection(wanted):
                    kind, phrase = _kind(value)
                    return Cut(value, kind, phrase, _path(values, above, value.id))
            elif i not in above and not values[i].parameter:
                above[i] = value.id
                queue.append(i)
    return None


def _path(values: Values, above: dict[int, int | None], last: int) -> tuple[Value, ...]:
    path = []
    at: int | None = last
    while at is not None:
        path.append(values[at])
        at = above[at]
    return tuple(reversed(path))


def _kind(value: Value) -> tuple[str, str]:
    if value.op in ("detach", "detach_"):
        return "detach", "cut by detach()"
    if value.op == "data":
        return "data", "cut by .data"
    if value.op in ESCAPES:
        return "number", f"turned into a plain number or array by {value.op.strip('_')}"
    if value.op == "grad":
        return "grad", "a gradient without a graph: no create_graph"
    if value.site.via == "distributions":
        return "sample", "drawn by sample(), through which no gradient flows"
    if value.op in _REWRAPS:
        return "rewrap", "copied into a new tensor, without its graph"
    if not value.grad_mode:
        return "no_grad", "computed under no_grad"
    if value.integer:
        return "integer", f"made an integer or boolean by {value.op.strip('_')}"
    return "other", f"cut by {value.op.strip('_')}"


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
