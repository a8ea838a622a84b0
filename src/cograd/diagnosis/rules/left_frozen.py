"""A model was frozen, never unfrozen, and is stepped.

What it does:
    Finds optimizers that step while all of their parameters have ``requires_grad`` off, parameters that were
    trained, then frozen, and are stepped ever since, and losses without a graph because all that they depend on was
    frozen after it had been trained.

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
from cograd.diagnosis.rules._frozen import frozen_before
from cograd.diagnosis.rules._naming import models, optimizer
from cograd.tracing import Backward, Flagged, Log, Step

SEVERITY = "warning"
FOLLOWS = True


def check(log: Log) -> Iterator[Finding]:
    """Steps of optimizers that hold frozen parameters only, and backward passes that fail on frozen models."""
    told = set()
    yield from _without_graph(log)
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


def _without_graph(log: Log) -> Iterator[Finding]:
    for event in log.of(Backward):
        for root in event.roots if "does not require grad" in event.error else ():
            found = frozen_before(log, event, root)
            if found is not None:
                off, parameters = found
                name = models(log, parameters)
                yield Finding(
                    off.site,
                    f"{name} is frozen here and never unfrozen, so {event.loss} has no graph when its turn comes again",
                    f"call {name}.requires_grad_(True) before {event.loss} is computed",
                    (Related("freeze", off.site), Related("backward", event.site, "finds no graph")),
                    severity="error",
                )
