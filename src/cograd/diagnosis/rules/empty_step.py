"""An optimizer steps, and none of its parameters ever has a gradient.

What it does:
    Finds optimizers that step again and again without any gradient to apply.

Why it is bad:
    The step does nothing.

Example:
    loss_a.backward()
    opt_b.step()  # loss_a does not depend on the parameters of opt_b

Use instead:
    loss_b.backward()
    opt_b.step()
"""

from __future__ import annotations

from collections.abc import Iterator

from cograd.diagnosis._finding import Finding, Related
from cograd.diagnosis.rules._naming import models, optimizer
from cograd.tracing import Backward, Log, Step

SEVERITY = "warning"


def check(log: Log) -> Iterator[Finding]:
    """Optimizers none of whose steps applied anything."""
    trained = frozenset(p for event in log.of(Backward) for p in event.reached)
    owned = frozenset(p for known in log.optimizers.values() for p in known.parameters)
    steps: dict[int, list[Step]] = {}
    for step in log.of(Step):
        steps.setdefault(step.optimizer, []).append(step)
    for number, taken in steps.items():
        held = log.optimizers[number].parameters
        since = {at for s in taken for at in s.since}
        if any(e.at in since and (not e.reached or e.reached - owned) for e in log.of(Backward)):
            continue  # nothing was reached, or what no optimizer holds: other rules say why
        if len(taken) < 2 or held & trained or any(s.uses or s.unknown or s.closure or not s.empty for s in taken):
            continue
        yield Finding(
            taken[0].site,
            f"{optimizer(log, number)} steps {log.optimizers[number].steps} times without a single gradient: no loss "
            f"reaches {models(log, held)}",
            "differentiate a loss that depends on these parameters before the step",
            (Related("optimizer", log.optimizers[number].made), Related("step", taken[0].site, "applies nothing")),
        )
