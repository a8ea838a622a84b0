"""A parameter was frozen between a loss and its backward, so it gets no gradient.

What it does:
    Finds parameters of an optimizer from which a loss was computed, and whose ``requires_grad`` was off again when the
    backward ran, and which never get a gradient otherwise.

Why it is bad:
    torch looks at the flag when the gradient arrives, and drops it. The parameter stays as it is. A model that switches
    between adapters sets their flags: of two that one loss uses, only the last is trained.

Example:
    net.set_adapter("first")
    one = net(x)
    net.set_adapter("second")  # freezes the first
    loss = criterion(one + net(x), y)
    loss.backward()

Use instead:
    one = net(x, adapter="first")
    loss = criterion(one + net(x, adapter="second"), y)
    loss.backward()
"""

from __future__ import annotations

from collections.abc import Iterator

from cograd.diagnosis._finding import Finding, Related
from cograd.diagnosis.rules._naming import parameter
from cograd.tracing import Backward, Flagged, Log, reached

SEVERITY = "error"
FOLLOWS = True


def check(log: Log) -> Iterator[Finding]:
    """Parameters that a loss depends on, that were switched off before its backward, and that nothing trains."""
    trained = frozenset(p for event in log.of(Backward) for p in event.reached)
    owned = frozenset(p for optimizer in log.optimizers.values() for p in optimizer.parameters)
    for event in log.of(Backward):
        for root in () if event.error else event.roots:
            lost = (reached(log.values, root) & owned) - trained
            switched = [f for f in log.of(Flagged) if f.at < event.at and f.parameters & lost]
            if not switched or switched[-1].on:
                continue
            off = switched[-1]
            names = sorted(parameter(log, p) for p in off.parameters & lost)
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            yield Finding(
                off.site,
                f"{names[0]}{more} is frozen here, after {event.loss} was computed from it and before its backward, "
                "so it gets no gradient",
                "leave requires_grad as it is until the backward has run",
                (Related("freeze", off.site), Related("backward", event.site, "drops the gradient")),
            )
            return
