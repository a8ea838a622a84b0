"""One gradient is applied to the same parameter by two optimizers.

What it does:
    Finds parameters that are held by two optimizers which both step on the gradient of the same backward.

Why it is bad:
    The parameter moves twice in each iteration, with two learning rates and two momenta.

Example:
    opt_encoder = SGD(encoder.parameters(), lr=0.1)
    opt_head = SGD(model.parameters(), lr=0.1)  # holds the encoder too

Use instead:
    opt_head = SGD(model.head.parameters(), lr=0.1)
"""

from __future__ import annotations

from collections.abc import Iterator

from cograd.diagnosis._finding import Finding, Related
from cograd.diagnosis.rules._naming import listed, models, optimizer
from cograd.tracing import Log, Step

SEVERITY = "warning"


def check(log: Log) -> Iterator[Finding]:
    """Steps on what another optimizer has just applied."""
    told = set()
    for step in log.of(Step):
        for use in step.uses:
            first = min(use.also, default=None)
            pair = frozenset((step.optimizer, first))
            if first is None or use.again or pair in told:
                continue
            told.add(pair)
            made = sorted((step.optimizer, first))
            late = log.optimizers[made[-1]].made
            names = listed([optimizer(log, n) for n in made])
            yield Finding(
                late,
                f"{names} both step {models(log, use.parameters)} on the gradient of {use.loss}: it moves twice",
                f"leave these parameters out of {optimizer(log, made[-1])}, or out of {optimizer(log, made[0])}",
                (
                    Related("optimizer", log.optimizers[made[0]].made, "holds them"),
                    Related("optimizer", late, "holds them too"),
                    Related("backward", use.site),
                    Related("step", step.site, "applies a gradient that was applied already"),
                ),
            )
