"""Where data flows on from parameters and gradients do not flow back, and how that came about."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass

from cograd.tracing._sites import Site
from cograd.tracing._values import ESCAPES, Value, Values, reached

_REWRAPS = frozenset({"tensor", "as_tensor", "asarray", "from_numpy", "FloatTensor", "Tensor", "Parameter"})


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

    @property
    def how(self) -> str:
        """What cut it, as it is written in code."""
        op = self.value.op.strip("_")
        if self.kind == "rewrap":
            return f"nn.{op}(), a copy" if op == "Parameter" else f"torch.{op}(), a copy"
        known = {"data": ".data", "no_grad": "no_grad", "grad": "grad() without create_graph"}
        return known.get(self.kind, "a NumPy array" if op == "array" else f"{op}()")


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


def cuts(values: Values, root: int, wanted: Collection[int]) -> list[Cut]:
    """All cuts between ``root`` and the parameters in ``wanted``, the nearest to ``root`` first.

    What runs under one ``no_grad`` is one cut.
    """
    above: dict[int, int | None] = {root: None}
    queue = deque([root])
    found: dict[tuple[Site, str], Cut] = {}
    blocks: set[tuple[str, str]] = set()  # functions with a no_grad that was seen
    while queue:
        value = values[queue.popleft()]
        for i in value.inputs:
            if i not in values:
                continue
            if not value.requires_grad and values[i].requires_grad:
                if reached(values, i, differentiable=False).isdisjoint(wanted):
                    continue
                kind, phrase = _kind(value)
                block = value.site.file, value.site.function
                if kind != "no_grad" or block not in blocks:
                    found.setdefault((value.site, kind), Cut(value, kind, phrase, _path(values, above, value.id)))
                    blocks |= {block} if kind == "no_grad" else set()
            if i not in above:
                above[i] = value.id
                queue.append(i)
    return list(found.values())


def lost(values: Values, wanted: Collection[int]) -> list[Cut]:
    """Where data that depends on ``wanted`` left torch for plain numbers or arrays, the latest first.

    That is as far as it can be followed where what came of it was computed outside torch.
    """
    found: dict[tuple[Site, str], Cut] = {}
    for value in sorted(values.values(), key=lambda v: -v.id):
        if value.op in ESCAPES and not reached(values, value.id, differentiable=False).isdisjoint(wanted):
            found.setdefault((value.site, value.op), Cut(value, *_kind(value), (value,)))
    return list(found.values())
