"""``backward()`` on a loss that is not a scalar.

What it does:
    Finds the part of the loss that was not reduced, and the reduction to add.

Why it is bad:
    The script stops. Passing a tensor of ones to ``backward`` instead sums over the elements, which also multiplies
    every scalar part of the loss by their number.

Example:
    loss = F.mse_loss(a, y) + 0.1 * (a - b).abs()
    loss.backward()

Use instead:
    loss = F.mse_loss(a, y) + 0.1 * (a - b).abs().mean()
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from cograd.diagnosis._finding import Finding, Related
from cograd.diagnosis.rules._terms import terms
from cograd.tracing import Backward, Log

SEVERITY = "error"


def check(log: Log) -> Iterator[Finding]:
    """A backward failed on the shape of its loss."""
    for event in log.of(Backward):
        if "implicitly created only for scalar outputs" not in event.error:
            continue
        parts = [term for root in event.roots for term in terms(log.values, root)]
        wide = [term for term in parts if math.prod(term.shape) > 1]
        site = wide[0].site if wide else event.site
        part = f"{site.target or site.text} is not reduced, so " if wide else ""
        yield Finding(
            site,
            f"{part}{event.loss} has shape {list(event.shape)}, and backward() needs a scalar",
            f"reduce it: ({site.target or site.text}).mean()" if wide else f"reduce it: {event.loss}.mean()",
            (Related("backward", event.site, "needs a scalar"),),
        )
