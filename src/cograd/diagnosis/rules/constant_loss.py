"""A loss that is the same whatever its parameters are, so that its gradient is zero.

What it does:
    Finds losses whose gradient is zero, or that were divided by themselves: ``loss / loss.mean()``, a softmax over
    one element, losses divided by their own sum.

Why it is bad:
    The loss is printed and stepped, and nothing is learned.

Example:
    total = a / a.mean() + b / b.mean()

Use instead:
    total = a / a.detach() + b / b.detach()
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from cograd.diagnosis._finding import Finding, Related
from cograd.diagnosis.rules._terms import taped
from cograd.tracing import Backward, Log, Value, Values, below

SEVERITY = "error"
FOLLOWS = True
_QUOTIENTS = frozenset({"div", "truediv", "__truediv__", "__div__", "divide", "true_divide"})
_NORMALISED = frozenset({"softmax", "log_softmax", "cross_entropy", "normalize"})


def check(log: Log) -> Iterator[Finding]:
    """Quotients of a value by itself, and losses whose gradient is zero."""
    told = set()
    for event, root in taped(log):
        for value in below(log.values, root.id, differentiable=True):
            if value.op in _QUOTIENTS and _by_itself(log.values, value):
                told.add(event.site)
                yield Finding(
                    value.site,
                    f"{value.site.text} is divided by itself: it is 1 whatever the weights, so its part of "
                    f"{event.loss} has no gradient",
                    "divide by the value without its graph: loss / loss.detach(), and log the loss before division",
                    (Related("backward", event.site, "computes a gradient of zero"),),
                )
    for event in log.of(Backward):
        if event.site in told or not _always_zero(log, event):
            continue
        suspect = _suspect(log, event)
        yield Finding(
            event.site if suspect is None else suspect.site,
            f"the gradient of {event.loss} is exactly zero for every parameter that it reaches",
            "make the loss depend on the output of the model" + (f": see {suspect.op}" if suspect else ""),
            (Related("backward", event.site, "computes a gradient of zero"),),
        )


def _by_itself(values: Values, quotient: Value) -> bool:
    if len(quotient.inputs) == 1:
        return len(quotient.shapes) == 2 and quotient.number == 1.0 and values[quotient.inputs[0]].requires_grad
    if len(quotient.inputs) != 2 or quotient.number is None or abs(quotient.number - 1) > 1e-6:
        return False
    top, bottom = (values[i] for i in quotient.inputs)
    return bottom.requires_grad and top.requires_grad and any(v.id == top.id for v in below(values, bottom.id))


def _always_zero(log: Log, event: Backward) -> bool:
    same = [e for e in log.of(Backward) if e.site == event.site and not e.error]
    return len(same) > 1 and all(e.reached and e.zero == e.reached for e in same[:6]) and same[0] is event


def _suspect(log: Log, event: Backward) -> Value | None:
    for root in event.roots:
        for value in below(log.values, root, differentiable=True):
            if value.op in _NORMALISED and value.shapes and value.shapes[0] and value.shapes[0][-1] == 1:
                return value
            if value.op in ("std", "var") and math.prod(value.shapes[0]) == 1:
                return value
    return None
