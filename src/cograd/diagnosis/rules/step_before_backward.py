"""An optimizer overwrites weights that a later backward still needs.

What it does:
    Finds an ``optimizer.step()`` between the forward of a loss and its ``backward()``, where the backward needs the
    weights as they were in the forward, and torch refuses to go on.

Why it is bad:
    The script stops with "modified by an inplace operation". The usual advice is to move the step to the end. That
    runs, but each model is then also trained with the gradients of the other's loss.

Example:
    d_loss, g_loss = loss(disc(real)) + loss(disc(fake.detach())), loss(disc(fake))
    d_loss.backward()
    opt_d.step()
    g_loss.backward()

Use instead:
    d_loss.backward()
    opt_d.step()
    g_loss = loss(disc(fake))
    g_loss.backward()
"""

from __future__ import annotations

from collections.abc import Iterator

from cograd.diagnosis._finding import Finding, Related
from cograd.diagnosis.rules._naming import parameter
from cograd.diagnosis.rules._saved import forward_site
from cograd.tracing import Backward, Log

SEVERITY = "error"


def check(log: Log) -> Iterator[Finding]:
    """A backward failed on what a step had overwritten."""
    for event in log.of(Backward):
        if "modified by an inplace operation" not in event.error or not event.stale:
            continue
        stale = event.stale[0]
        forward = forward_site(log, stale.sequence)
        related = [] if forward is None else [Related("forward", forward, "saved the weights for backward")]
        related += [
            Related("step", stale.step, "overwrote them in place"),
            Related("backward", event.site, "asks for the saved values"),
        ]
        what = event.loss if forward is None else f"{forward.target or event.loss} (line {forward.line})"
        yield Finding(
            stale.step,
            f"{event.site.text} needs the value that {parameter(log, stale.parameter)} had before {stale.step.text}",
            f"compute {what} again after line {stale.step.line}, or call {event.site.text} before that line and clear "
            "the gradients that it leaves on other models; retain_graph does not help",
            tuple(related),
        )
