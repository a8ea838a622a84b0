"""A backward computes with weights that were overwritten since the forward, and torch does not notice.

What it does:
    The same as step-before-backward, where no error is raised: with fused optimizers, which do not count their writes.

Why it is bad:
    The gradients are those of no loss at all: outputs of the old weights are combined with the new weights.

Example:
    opt_d = torch.optim.Adam(disc.parameters(), fused=True)
    ...
    opt_d.step()
    g_loss.backward()  # g_loss was computed before the step

Use instead:
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
FOLLOWS = True


def check(log: Log) -> Iterator[Finding]:
    """A backward ran over what a step had overwritten."""
    for event in log.of(Backward):
        if event.error or not event.stale:
            continue
        stale = event.stale[0]
        forward = forward_site(log, stale.sequence)
        related = [] if forward is None else [Related("forward", forward, "used the weights as they were")]
        yield Finding(
            stale.step,
            f"{stale.step.text} overwrote {parameter(log, stale.parameter)} between the forward and "
            f"{event.site.text}, which silently computes with the new values",
            f"compute {event.loss} after line {stale.step.line}, or call {event.site.text} before that line",
            (
                *related,
                Related("step", stale.step, "overwrote them"),
                Related("backward", event.site, "computes with the new values"),
            ),
        )
