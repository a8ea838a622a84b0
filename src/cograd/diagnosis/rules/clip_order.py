"""Clipping that clips nothing.

What it does:
    Finds gradients that are clipped after the step that applied them, and clipping of a generator of parameters that
    was already used up.

Why it is bad:
    The step has used the gradients as they were.

Example:
    loss.backward()
    optimizer.step()
    clip_grad_norm_(net.parameters(), 1.0)

Use instead:
    loss.backward()
    clip_grad_norm_(net.parameters(), 1.0)
    optimizer.step()
"""

from __future__ import annotations

from collections.abc import Iterator

from cograd.diagnosis._finding import Finding, Related
from cograd.tracing import Clipped, Log

SEVERITY = "warning"


def check(log: Log) -> Iterator[Finding]:
    """Clippings without effect."""
    for event in log.of(Clipped):
        if not event.parameters:
            yield Finding(
                event.site,
                f"{event.site.text} is given no parameters: the generator was used up before",
                "pass net.parameters() anew, or keep a list of it",
            )
        elif event.applied and event.step is not None:
            yield Finding(
                event.site,
                f"{event.site.text} comes after the step that applied these gradients, and clips nothing",
                f"move it between backward() and line {event.step.line}",
                (Related("step", event.step, "applied them"), Related("clip", event.site, "comes too late")),
            )
