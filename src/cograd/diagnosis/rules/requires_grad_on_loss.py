"""``requires_grad`` is switched on for a loss.

What it does:
    Finds ``loss.requires_grad_()`` and ``loss.requires_grad = True`` on a computed tensor without a graph.

Why it is bad:
    It silences the error that says the loss has no graph. ``backward()`` then runs, and reaches nothing.

Example:
    loss = F.cross_entropy(net(x).argmax(1).float(), y)
    loss.requires_grad_()
    loss.backward()

Use instead:
    loss = F.cross_entropy(net(x), y)
    loss.backward()
"""

from __future__ import annotations

from collections.abc import Iterator

from cograd.diagnosis._finding import Finding, Related
from cograd.diagnosis.rules import _cuts
from cograd.tracing import Backward, Log, MadeLeaf, below, reached

SEVERITY = "error"
FOLLOWS = True
COVERS = ("unreached-model", "empty-step", "cut-term", "loss-without-graph")


def check(log: Log) -> Iterator[Finding]:
    """Losses that were made to require grad, and differentiated."""
    made = {event.value: event for event in log.of(MadeLeaf) if event.value is not None and event.scalar}
    for backward in log.of(Backward):
        for root in backward.roots:
            if reached(log.values, root):
                continue
            for value in below(log.values, root, differentiable=True):
                event = made.get(value.id) or (
                    made.get(value.inputs[0]) if value.op.startswith("requires_grad") else None
                )
                if event is None:
                    continue
                found = _cuts.cut(log.values, value.id, reached(log.values, value.id, differentiable=False))
                related = () if found is None else (Related("cut", found.value.site, found.phrase),)
                yield Finding(
                    event.site,
                    f"{backward.loss} has no graph, and making it require grad does not give it one: it trains nothing",
                    "remove this call, and keep the graph between the model and the loss",
                    (*related, Related("backward", backward.site, "reaches nothing")),
                )
