"""Per parameter: which backward passes its gradient is made of, and which steps have applied them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from torch import Tensor

from cograd.tracing._events import Use
from cograd.tracing._objects import Numbers
from cograd.tracing._sites import Site

_MANY = 64  # contributions remembered per parameter; more are merged into the last


@dataclass(slots=True)
class Contribution:
    """What one backward added to one parameter's gradient, and how often each optimizer has applied it."""

    backward: int
    site: Site
    loss: str
    applied: dict[int, int] = field(default_factory=dict)
    read: bool = False  # by the script, which computed something from it


@dataclass(slots=True)
class _Slot:
    print: tuple[int, int] | None = None  # identity and version of the gradient when last seen
    parts: list[Contribution] = field(default_factory=list)
    known: bool = True


class GradState:
    """Follows ``.grad`` of every parameter by identity and version, without reading a value.

    Only a gradient that somebody else touched in place is looked at, to see whether it was cleared.
    """

    def __init__(self, parameters: Numbers[Tensor]) -> None:
        self._numbers = parameters
        self._slots: defaultdict[int, _Slot] = defaultdict(_Slot)
        self._others: dict[int, set[int]] = {}  # backward -> optimizers that applied some of it

    def settle(self, parameters: Iterable[tuple[Tensor, int]]) -> None:
        """Take note of what happened to gradients since they were last seen, other than by a backward."""
        for parameter, number in parameters:
            grad = parameter.grad
            slot = self._slots[number]
            if grad is None:
                if slot.print is not None:
                    slot.print, slot.parts, slot.known = None, [], True
                continue
            seen = id(grad), grad._version
            if seen == slot.print:
                continue
            if slot.print is None or slot.print[0] != seen[0]:
                slot.parts, slot.known = [], False
            elif _is_zero(grad):
                slot.parts, slot.known = [], True
            slot.print = seen

    def accept(self, parameters: Iterable[tuple[Tensor, int]]) -> None:
        """Gradients were rescaled in place: they are made of the same parts."""
        for parameter, number in parameters:
            grad, slot = parameter.grad, self._slots[number]
            if grad is not None and slot.print is not None and slot.print[0] == id(grad):
                slot.print = id(grad), grad._version

    def added(self, parameters: Iterable[tuple[Tensor, int]], part: Contribution) -> frozenset[int]:
        """The parameters that a backward gave a gradient to, which is noted for each."""
        reached = []
        for parameter, number in parameters:
            grad = parameter.grad
            if grad is None:
                continue
            slot = self._slots[number]
            seen = id(grad), grad._version
            if seen != slot.print:
                if slot.print is None:
                    slot.parts = []
                slot.print = seen
                slot.parts.append(Contribution(part.backward, part.site, part.loss))
                del slot.parts[1:-_MANY]
                reached.append(number)
        return frozenset(reached)

    def uses(self, numbers: Iterable[int], optimizer: int | None) -> tuple[Use, ...]:
        """The gradients that these parameters hold, one entry per backward and history."""
        found: defaultdict[tuple[int, int, frozenset[int]], set[int]] = defaultdict(set)
        parts: dict[int, Contribution] = {}
        read: set[int] = set()
        for number in numbers:
            for part in self._slots[number].parts:
                again = sum(part.applied.values()) if optimizer is None else part.applied.get(optimizer, 0)
                found[part.backward, again, frozenset(n for n in part.applied if n != optimizer)].add(number)
                parts[part.backward] = part
                read |= {part.backward} if part.read else set()
        return tuple(
            Use(
                b, parts[b].site, parts[b].loss, frozenset(held), again, self._applied_by(b, optimizer), also, b in read
            )
            for (b, again, also), held in sorted(found.items(), key=lambda item: item[0][:2])
        )

    def _applied_by(self, backward: int, optimizer: int | None) -> frozenset[int]:
        return frozenset(n for n in self._others.get(backward, ()) if n != optimizer)

    def read(self, number: int) -> None:
        """The script computed something from what this parameter holds."""
        for part in self._slots[number].parts:
            part.read = True

    def unknown(self, numbers: Iterable[int]) -> frozenset[int]:
        """Those whose gradient nobody was seen to make."""
        return frozenset(n for n in numbers if self._slots[n].print is not None and not self._slots[n].known)

    def cleared(self, number: int) -> bool:
        """Whether this parameter has a gradient of zeros, as ``zero_grad(set_to_none=False)`` leaves."""
        slot = self._slots[number]
        return slot.print is not None and slot.known and not slot.parts

    def apply(self, numbers: Iterable[int], optimizer: int) -> None:
        """A step of ``optimizer`` applied what these parameters hold."""
        for number in numbers:
            for part in self._slots[number].parts:
                part.applied[optimizer] = part.applied.get(optimizer, 0) + 1
                self._others.setdefault(part.backward, set()).add(optimizer)
        while len(self._others) > 1000:
            del self._others[next(iter(self._others))]

    def clear(self, parameters: Iterable[tuple[Tensor, int]]) -> None:
        """The gradients of these parameters were cleared."""
        for parameter, number in parameters:
            grad = parameter.grad
            self._slots[number] = _Slot(None if grad is None else (id(grad), grad._version))

    def all_applied(self, numbers: Iterable[int]) -> bool:
        """Whether there are gradients here, and steps have applied each of them."""
        parts = [part for n in numbers for part in self._slots[n].parts]
        return bool(parts) and all(part.applied for part in parts)


def _is_zero(grad: Tensor) -> bool:
    return not grad.is_sparse and not bool(grad.detach().any())
