"""A model gets gradients, and its optimizer never steps.

What it does:
    Finds optimizers that never step, and whose parameters get gradients which nothing applies.

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
from cograd.diagnosis.rules._terms import applied
from cograd.tracing import Backward, Cleared, Log

SEVERITY = "error"


def check(log: Log) -> Iterator[Finding]:
    """Optimizers without a step, whose parameters were given gradients in several iterations."""
    if log.outcome in ("raised", "interrupted"):
        return
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
