"""A penalty on gradients that trains nothing, because the gradients have no graph.

What it does:
    Finds an addend of a loss that is computed from ``torch.autograd.grad(...)`` without ``create_graph=True``.

Why it is bad:
    The penalty is a constant for the backward: the model is not regularised at all, whatever the weight.

Example:
    (g,) = torch.autograd.grad(critic(x).sum(), x)
    loss = loss + 10 * ((g.norm(dim=1) - 1) ** 2).mean()

Use instead:
    (g,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
"""

from __future__ import annotations

from collections.abc import Iterator

from cograd.diagnosis._finding import Finding
from cograd.diagnosis.rules import _cuts
from cograd.diagnosis.rules._naming import models
from cograd.tracing import Log

SEVERITY = "error"
FOLLOWS = True


def check(log: Log) -> Iterator[Finding]:
    """Addends that were cut by ``autograd.grad``."""
    for found in _cuts.inert(log):
        if found.cut.kind == "grad":
            yield Finding(
                found.cut.value.site,
                f"a penalty in {found.backward.loss} is made from these gradients, which have no graph: it sends no "
                f"gradient to {models(log, found.wanted)}",
                "torch.autograd.grad(..., create_graph=True)",
                _cuts.story(found.backward, found.cut),
            )
