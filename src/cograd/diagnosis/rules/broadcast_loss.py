"""Prediction and target of different shape are broadcast against each other.

What it does:
    Finds losses, and differences that end in a loss, whose operands have shapes such as [N, 1] and [N].

Why it is bad:
    Every prediction is compared with every target. The loss goes down, to the model that always answers the mean.

Example:
    loss = F.mse_loss(model(x), y)  # [N, 1] and [N]

Use instead:
    loss = F.mse_loss(model(x), y.unsqueeze(1))
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from cograd.diagnosis._finding import Finding, Related
from cograd.diagnosis.rules._terms import taped
from cograd.tracing import Log, Value, below

SEVERITY = "warning"
FOLLOWS = True
_LOSSES = frozenset({"mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "poisson_nll_loss", "kl_div"})
_DIFFERENCES = frozenset({"sub", "__sub__", "__rsub__", "subtract", "sub_", "__isub__", "rsub"})


def check(log: Log) -> Iterator[Finding]:
    """Operands that are broadcast against each other on the way to a loss."""
    for event, root in taped(log):
        for value in below(log.values, root.id):
            if _mismatch(value):
                a, b = (list(shape) for shape in value.shapes[:2])
                yield Finding(
                    value.site,
                    f"shapes {a} and {b} are broadcast to {_broadcast(value.shapes[0], value.shapes[1])}: every "
                    "prediction is compared with every target",
                    "give both the same shape: target.unsqueeze(1), or prediction.squeeze(1)",
                    (Related("backward", event.site),),
                )


def _mismatch(value: Value) -> bool:
    if len(value.shapes) < 2 or value.op not in _LOSSES | _DIFFERENCES:
        return False
    a, b = value.shapes[:2]
    if value.op in _LOSSES:
        return a != b and min(math.prod(a), math.prod(b)) > 1
    if len(a) == len(b) or math.prod(a) != math.prod(b) or math.prod(a) < 2:
        return False
    return math.prod(value.shape) > math.prod(a)


def _broadcast(a: tuple[int, ...], b: tuple[int, ...]) -> list[int]:
    width = max(len(a), len(b))
    padded = ((1,) * (width - len(s)) + s for s in (a, b))
    return [max(pair) for pair in zip(*padded, strict=True)]
