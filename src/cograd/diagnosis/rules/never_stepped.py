"""A model gets gradients, and its optimizer never steps.

What it does:
    Finds optimizers that never step, and whose parameters get gradients which nothing applies. Also finds an
    optimizer that was given the parameters of another one, while a model that gets gradients has none.

Why it is bad:
    The model stays at its initial weights, while its loss is computed in every iteration.

Example:
    opt_d.zero_grad()
    d_loss.backward()

Use instead:
    opt_d.zero_grad()
    d_loss.backward()
    opt_d.step()
"""

from __future__ import annotations

from collections.abc import Iterator

from cograd.diagnosis._finding import Finding, Related
from cograd.diagnosis.rules._naming import models, optimizer
from cograd.diagnosis.rules._orphans import Orphans, orphans
from cograd.diagnosis.rules._terms import applied
from cograd.tracing import Backward, Cleared, Log, OptimizerMade, Step

SEVERITY = "error"
COVERS = ("two-optimizers", "no-optimizer")


def check(log: Log) -> Iterator[Finding]:
    """Optimizers without a step, whose parameters were given gradients in several iterations."""
    if log.outcome in ("raised", "interrupted"):
        return
    yield from _wrong_model(log)
    used = applied(log)
    for number, known in log.optimizers.items():
        idle = frozenset(p for p in known.parameters if not log.parameters[p].stepped and not log.parameters[p].written)
        passes = [e for e in log.of(Backward) if e.reached & idle and not e.error]
        if known.steps or not idle or log.parameters.keys().isdisjoint(idle) or not passes:
            continue
        wasted = [e for e in passes if not used.get(e.at)] or passes
        event = wasted[0]
        if log.count(event) < 2:
            continue
        cleared = next((c for c in log.of(Cleared) if c.owner == number), None)
        related = [Related("optimizer", known.made, "is never stepped")]
        related += [Related("zero_grad", cleared.site, "throws the gradients away")] if cleared else []
        yield Finding(
            event.site,
            f"{event.loss} gives gradients to {models(log, event.reached & idle)} {log.count(event)} times, and "
            f"{optimizer(log, number)} never steps",
            f"call {optimizer(log, number)}.step() after this line",
            (*related, Related("backward", event.site, "computes gradients that nothing applies")),
        )


def _wrong_model(log: Log) -> Iterator[Finding]:
    """Optimizers that hold what an older one holds and steps in the same iterations, while a model has none."""
    lost = next((o for o in orphans(log) if not o.hidden and o.twin is None and _whole(log, o)), None)
    made = {event.optimizer: event.at for event in reversed(log.of(OptimizerMade))}
    order = sorted((n for n in log.optimizers if n in made), key=made.__getitem__)
    for i, late in enumerate(order):
        held = log.optimizers[late].parameters
        first = next((n for n in order[:i] if held and log.optimizers[n].parameters == held), None)
        if lost is None or first is None or not _in_turns(log, first, late):
            continue
        name = models(log, lost.parameters)
        yield Finding(
            log.optimizers[late].made,
            f"{optimizer(log, late)} holds {models(log, held)}, as {optimizer(log, first)} does: {name} gets gradients "
            "and is never stepped",
            f"give {optimizer(log, late)} the parameters of {name}",
            (
                Related("optimizer", log.optimizers[first].made, "holds the same parameters"),
                Related("optimizer", log.optimizers[late].made, f"does not hold {name}"),
                Related("backward", lost.backward.site, f"gives gradients to {name}"),
            ),
        )
        return


def _whole(log: Log, group: Orphans) -> bool:
    """Whether it is all that there is of a model."""
    names = {log.parameters[p].model for p in group.parameters}
    return all(p in group.parameters for p, known in log.parameters.items() if known.model in names)


def _in_turns(log: Log, first: int, late: int) -> bool:
    """Whether the older optimizer steps after the newer one, and the newer one at all."""
    steps = [(s.at, s.optimizer) for s in log.of(Step) if s.optimizer in (first, late)]
    start = min((at for at, n in steps if n == late), default=None)
    return start is not None and any(n == first and at > start for at, n in steps)
