"""A model was frozen, never unfrozen, and is stepped.

What it does:
    Finds optimizers that step while all of their parameters have ``requires_grad`` off, and parameters that were
    trained, then frozen, and are stepped ever since.

Why it is bad:
    The model stops to learn, and nothing says so.

Example:
    disc.requires_grad_(False)
    g_loss.backward()
    opt_g.step()
    # the next d_loss does not reach disc

Use instead:
    disc.requires_grad_(False)
    g_loss.backward()
    opt_g.step()
    disc.requires_grad_(True)
"""

from __future__ import annotations

from collections.abc import Iterator

from cograd.diagnosis._finding import Finding, Related
from cograd.diagnosis.rules._naming import models, optimizer
from cograd.tracing import Flagged, Log, Step

SEVERITY = "warning"


def check(log: Log) -> Iterator[Finding]:
    """Steps of optimizers that hold frozen parameters only."""
    told = set()
    for step in log.of(Step):
        alive = step.empty or step.unknown or any(not use.again for use in step.uses)
        if not step.frozen or alive or step.optimizer in told:
            continue
        switched = [f for f in log.of(Flagged) if f.parameters & step.frozen and f.at < step.at]
        off = [f for f in switched if not f.on]
        if not off or any(f.on and f.at > off[-1].at for f in log.of(Flagged) if f.parameters & step.frozen):
            continue
        told.add(step.optimizer)
        name = models(log, step.frozen)
        yield Finding(
            off[-1].site,
            f"{name} is frozen here and never unfrozen, while {optimizer(log, step.optimizer)} goes on to step it",
            f"call {name}.requires_grad_(True) before its own loss is computed",
            (Related("freeze", off[-1].site), Related("step", step.site, "moves nothing")),
        )
