"""Values on the tape: what was computed from parameters in the first iterations, and how."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from cograd.tracing._sites import Site

ESCAPES = frozenset({"item", "__float__", "__int__", "__index__", "tolist", "numpy", "__array__"})


@dataclass(frozen=True, slots=True)
class Value:
    """One result of one operation, or a parameter.

    Attributes:
        id: its number; inputs have smaller ones.
        op: the name of the operation, ``parameter`` for a parameter.
        site: the line of the user's code that asked for it.
        inputs: the values that it was computed from.
        shape: of the tensor; empty for numbers.
        shapes: of the tensors that went in, whether or not they depend on parameters.
        requires_grad: whether a gradient can flow into it.
        grad_mode: whether gradients were switched on.
        numbers: the Python numbers among the operands.
        number: its own value, if it is a number or a scalar that costs nothing to read.
        parameter: the parameter that it is.
        sequence: of the autograd node that made it.
        at: the place in the order of events.
        steps: optimizer steps that had been made.
        integer: whether it is of an integer or boolean type.
        finite: whether all of its elements are, or it was not looked at.
        callers: the calls in the user's code around its own line, the innermost first, for some values.
    """

    id: int
    op: str
    site: Site
    inputs: tuple[int, ...]
    shape: tuple[int, ...] = ()
    shapes: tuple[tuple[int, ...], ...] = ()
    requires_grad: bool = False
    grad_mode: bool = True
    numbers: tuple[float, ...] = ()
    number: float | None = None
    parameter: int | None = None
    sequence: int | None = None
    at: int = 0
    steps: int = 0
    integer: bool = False
    finite: bool = True
    callers: tuple[Site, ...] = ()


Values = Mapping[int, Value]


def below(values: Values, root: int, *, differentiable: bool = False) -> Iterator[Value]:
    """Everything that ``root`` was computed from, itself included; only along gradients if ``differentiable``."""
    seen = {root}
    stack = [root]
    while stack:
        value = values.get(stack.pop())
        if value is None:
            continue
        yield value
        for i in value.inputs:
            flows = value.requires_grad and i in values and values[i].requires_grad
            if i not in seen and (flows or not differentiable):
                seen.add(i)
                stack.append(i)


def reached(values: Values, root: int, *, differentiable: bool = True) -> frozenset[int]:
    """The parameters that a gradient of ``root`` reaches, or that its value depends on."""
    if differentiable and (root not in values or not values[root].requires_grad):
        return frozenset()
    found = below(values, root, differentiable=differentiable)
    return frozenset(v.parameter for v in found if v.parameter is not None)
