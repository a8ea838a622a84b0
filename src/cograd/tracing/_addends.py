"""The addends of a loss, found on the tape."""

from __future__ import annotations

from collections.abc import Iterator

from cograd.tracing._values import Value, Values

SUMS = frozenset({"add", "__add__", "__radd__", "__iadd__", "add_", "sub", "__sub__", "__rsub__", "__isub__", "sub_"})
_SCALES = frozenset({
    "mul", "__mul__", "__rmul__", "__imul__", "mul_", "div", "truediv", "__truediv__", "__div__", "__itruediv__",
    "neg", "__neg__", "clone", "reshape", "view", "squeeze", "unsqueeze", "flatten", "to", "float", "double",
    "half", "contiguous",
})  # fmt: skip
_REDUCTIONS = frozenset({"sum", "mean"})
_JOINS = frozenset({"stack", "cat", "concat", "concatenate", "hstack"})


def terms(values: Values, root: int) -> Iterator[Value]:
    """The addends of ``root``: what is left when sums, and products with constants, are taken apart."""
    stack = [root]
    while stack:
        value = values.get(stack.pop())
        if value is None:
            continue
        below = [values[i] for i in value.inputs if i in values]
        if value.op in SUMS and below:
            stack += [v.id for v in reversed(below)]
        elif value.op in _SCALES and len(below) == 1 and below[0].op != "parameter":
            stack.append(below[0].id)
        elif value.op in _REDUCTIONS and len(below) == 1 and _joined(values, below[0]):
            stack += [i for i in reversed(_joined(values, below[0])) if i in values]
        else:
            yield value


def _joined(values: Values, value: Value) -> tuple[int, ...]:
    """The scalars that were joined into the vector ``value``; itself if it is a scalar."""
    if not value.shape:
        return (value.id,)
    if value.op in _SCALES and len(value.inputs) == 1:
        return _joined(values, values[value.inputs[0]]) if value.inputs[0] in values else ()
    scalars = all(i in values and values[i].shape in ((), (1,)) for i in value.inputs)
    return value.inputs if value.op in _JOINS and scalars else ()


def sums(values: Values, root: int) -> Iterator[Value]:
    """The additions that ``root`` is made of."""
    stack = [root]
    while stack:
        value = values.get(stack.pop())
        if value is None:
            continue
        if value.op in SUMS:
            yield value
            stack += value.inputs
        elif value.op in _SCALES and len(value.inputs) == 1:
            stack += value.inputs


def added(values: Values, root: int, term: int) -> Value | None:
    """The addition by which ``term``, perhaps times a constant, enters ``root``."""
    for total in sums(values, root):
        for i in total.inputs:
            while i != term and i in values and values[i].op in _SCALES and len(values[i].inputs) == 1:
                i = values[i].inputs[0]
            if i == term:
                return total
    return None
