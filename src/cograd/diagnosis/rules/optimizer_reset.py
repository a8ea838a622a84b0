"""An optimizer is made anew inside the loop, and forgets its state.

What it does:
    Finds a line that makes an optimizer for the same parameters again and again, after steps of the one before.

Why it is bad:
    Momentum and the second moments of Adam start at zero each time, and schedulers keep the old optimizer.

Example:
    for epoch in range(10):
        optimizer = Adam(net.parameters())

Use instead:
    optimizer = Adam(net.parameters())
    for epoch in range(10):
        ...
"""

from __future__ import annotations

from collections.abc import Iterator

from cograd.diagnosis._finding import Finding
from cograd.tracing import Log, OptimizerMade

SEVERITY = "warning"
_TIMES = 3


def check(log: Log) -> Iterator[Finding]:
    """Lines that make an optimizer for the same parameters several times."""
    sites: dict[object, list[OptimizerMade]] = {}
    for event in log.of(OptimizerMade):
        sites.setdefault(event.site, []).append(event)
    for events in sites.values():
        first = events[0]
        same = [e for e in events if e.parameters == first.parameters]
        stepped = [e for e in same if e.optimizer in log.optimizers and log.optimizers[e.optimizer].steps]
        if len(stepped) >= _TIMES:
            name = first.site.target or first.kind
            yield Finding(
                first.site,
                f"{name} is made {log.count(first)} times for the same parameters, and each time its state is lost",
                "make it once, before the loop; to change the learning rate use a scheduler or param_groups",
            )
