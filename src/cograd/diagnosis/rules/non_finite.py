"""A loss or a gradient became NaN or infinite.

What it does:
    Finds the first backward with such a loss or gradient, and the operation that it came from where it happened in
    the first iterations.

Why it is bad:
    One step on it makes the parameters NaN for good.

Example:
    loss = torch.log(p).mean()  # p is 0 for some elements

Use instead:
    loss = torch.log(p.clamp_min(1e-8)).mean()
"""

from __future__ import annotations

from collections.abc import Iterator

from cograd.diagnosis._finding import Finding, Related
from cograd.diagnosis.rules._naming import models
from cograd.tracing import Backward, Log, Step, Value, below

SEVERITY = "error"


def check(log: Log) -> Iterator[Finding]:
    """The first loss or gradient that is not finite, if a step applied it."""
    for event in log.of(Backward):
        lost = event.value is not None and event.value - event.value != 0
        if not lost and not event.infinite:
            continue
        step = next((s for s in log.of(Step) if any(u.backward == event.at for u in s.uses)), None)
        if log.scaling and step is None:
            continue
        origin = _origin(log, event)
        what = f"{event.loss} is {event.value}" if lost else f"the gradient of {event.loss} is not finite"
        after = f" for {models(log, event.infinite)}" if event.infinite and not lost else ""
        place = f", first in {origin.site.text}" if origin else ""
        yield Finding(
            event.site if origin is None else origin.site,
            f"{what}{after} after {event.steps} optimizer steps{place}",
            "bound what goes into log, sqrt, exp and division, lower the learning rate, or clip gradients",
            (
                Related("backward", event.site, "differentiates it"),
                *([Related("step", step.site, "applies it")] if step else []),
            ),
            severity="warning" if log.scaling else None,
        )
        return


def _origin(log: Log, event: Backward) -> Value | None:
    """The operation that made the first value that is not finite, from values that are."""
    bad = [v for root in event.roots for v in below(log.values, root) if not v.finite]
    return min(bad, key=lambda v: v.id, default=None)
