"""``backward()`` on a loss that is not a scalar.

What it does:
    Finds the part of the loss that was not reduced, and the reduction to add. Where a step applies the gradients of a
    loss of several elements that was given ones to go with, it asks whether a sum is meant, as an info.

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

import ast
import math
from collections.abc import Iterator

from cograd.diagnosis._finding import Finding, Related
from cograd.diagnosis.rules._terms import applied, terms
from cograd.tracing import Backward, Log

SEVERITY = "error"


def check(log: Log) -> Iterator[Finding]:
    """A backward failed on the shape of its loss."""
    asked = set()
    for event in log.of(Backward):
        if event.ones and not event.error and applied(log).get(event.at) and event.site not in asked:
            asked.add(event.site)
            yield Finding(
                event.site,
                f"{event.loss} has shape {list(event.shape)}, and {event.site.text} differentiates the sum of its "
                f"{math.prod(event.shape)} elements: is that meant? A scalar in it counts once for each element",
                f"reduce it: {event.loss}.mean().backward(), or {event.loss}.sum().backward() if a sum is meant",
                (Related("backward", event.site, "sums over the elements"),),
                severity="info",
            )
        if "implicitly created only for scalar outputs" not in event.error:
            continue
        parts = [term for root in event.roots for term in terms(log.values, root)]
        wide = [term for term in parts if math.prod(term.shape) > 1]
        site = wide[0].site if wide else event.site
        part = f"{site.target or site.text} is not reduced, so " if wide else ""
        yield Finding(
            site,
            f"{part}{event.loss} has shape {list(event.shape)}, and backward() needs a scalar",
            f"reduce it: {_bracketed(site.target or site.text)}.mean()" if wide else f"reduce it: {event.loss}.mean()",
            (Related("backward", event.site, "needs a scalar"),),
        )


def _bracketed(text: str) -> str:
    """``text`` as it is written in front of a dot."""
    try:
        parsed = ast.parse(text, mode="eval").body
    except SyntaxError:
        return f"({text})"
    return text if isinstance(parsed, (ast.Name, ast.Attribute, ast.Call, ast.Subscript)) else f"({text})"
