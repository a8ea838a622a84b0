"""An in-place write to a parameter, where gradients are recorded.

What it does:
    Explains the error for ``p += ...``, ``p.mul_(...)`` or ``p[0] = ...`` on a parameter outside ``no_grad``.

Why it is bad:
    The script stops. It is mostly an update by hand, such as a moving average of weights.

Example:
    for p, q in zip(ema.parameters(), net.parameters()):
        p.mul_(0.99).add_(0.01 * q)

Use instead:
    with torch.no_grad():
        for p, q in zip(ema.parameters(), net.parameters()):
            p.mul_(0.99).add_(0.01 * q)
"""

from __future__ import annotations

from collections.abc import Iterator

from cograd.diagnosis._finding import Finding
from cograd.tracing import Log

SEVERITY = "error"


def check(log: Log) -> Iterator[Finding]:
    """The error that torch raised, if it is this one."""
    text = str(log.error or "")
    if "leaf Variable that requires grad" in text and "in-place operation" in text:
        yield Finding(
            log.error_site,
            f"{log.error_site.text} writes into a parameter while gradients are recorded",
            "put the update under torch.no_grad(); for a copy that is not trained, also call requires_grad_(False)",
        )
