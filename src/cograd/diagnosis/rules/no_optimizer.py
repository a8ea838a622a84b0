"""Parameters get gradients, and belong to no optimizer.

What it does:
    Finds trainable parameters that a trained loss sends gradients to, that no optimizer holds, and that the script
    does not update by hand, load from a file, or copy from another model.

Why it is bad:
    They stay at their initial values: a loss with learned weights, a head that was added, a prompt.

Example:
    criterion = LearnedWeights(2)
    optimizer = Adam(net.parameters())

Use instead:
    optimizer = Adam([*net.parameters(), *criterion.parameters()])
"""

from __future__ import annotations

from collections.abc import Iterator

from cograd.diagnosis._finding import Finding, Related
from cograd.diagnosis.rules._naming import models, optimizer
from cograd.diagnosis.rules._orphans import orphans
from cograd.tracing import Log

SEVERITY = "warning"


def check(log: Log) -> Iterator[Finding]:
    """Parameters without an optimizer, one finding for each optimizer that lacks them."""
    for group in orphans(log):
        if group.hidden or group.twin is not None:
            continue
        name = models(log, group.parameters)
        yield Finding(
            log.optimizers[group.optimizer].made,
            f"{name} gets gradients from {group.backward.loss}, and no optimizer holds its parameters",
            f"add them to {optimizer(log, group.optimizer)}, or freeze them: {name}.requires_grad_(False)",
            (
                Related("optimizer", log.optimizers[group.optimizer].made, "does not hold them"),
                Related("backward", group.backward.site, "gives them gradients"),
            ),
        )
