"""An optimizer holds another copy of the model than the one that runs.

What it does:
    Finds optimizers whose parameters never get a gradient, while those of a copy, or of a module that took their
    place after the optimizer was made, do and are held by none.

Why it is bad:
    The optimizer steps on nothing, and the model that runs never learns.

Example:
    optimizer = Adam(net.parameters())
    net.head = nn.Linear(64, 10)

Use instead:
    net.head = nn.Linear(64, 10)
    optimizer = Adam(net.parameters())
"""

from __future__ import annotations

from collections.abc import Iterator

from cograd.diagnosis._finding import Finding, Related
from cograd.diagnosis.rules._naming import models, optimizer
from cograd.diagnosis.rules._orphans import orphans
from cograd.tracing import Copied, Log

SEVERITY = "error"


def check(log: Log) -> Iterator[Finding]:
    """Trained parameters without an optimizer, whose twins have one."""
    for group in orphans(log):
        if group.twin is None or group.hidden:
            continue
        twins = group.twin.pairs if isinstance(group.twin, Copied) else ()
        held = {p for pair in twins for p in pair} or set(getattr(group.twin, "old", ()))
        owner = next((n for n, o in log.optimizers.items() if o.parameters & held), group.optimizer)
        made = log.optimizers[owner].made
        copy = "a copy" if twins else "a module that is no longer part of the model"
        yield Finding(
            group.twin.site,
            f"{optimizer(log, owner)} holds {copy}: {models(log, group.parameters)} gets the gradients of "
            f"{group.backward.loss}, and nothing steps it",
            f"make {optimizer(log, owner)} after line {group.twin.site.line}, from the model that runs",
            (
                Related("optimizer", made, "holds the other parameters"),
                Related("copy" if twins else "replaced", group.twin.site, "makes those that run"),
                Related("backward", group.backward.site, "gives gradients to those that run"),
            ),
        )
