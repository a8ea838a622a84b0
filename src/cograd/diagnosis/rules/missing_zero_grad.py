"""A step applies gradients that it has applied already.

What it does:
    Finds optimizers whose gradients are not cleared between their steps.

Why it is bad:
    Step n applies the sum of all gradients of the steps 1 to n: noise like a learning rate that grows.

Example:
    opt_decoder.zero_grad()
    loss.backward()
    opt_encoder.step()
    opt_decoder.step()

Use instead:
    opt_encoder.zero_grad()
    opt_decoder.zero_grad()
    loss.backward()
    opt_encoder.step()
    opt_decoder.step()
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from cograd.diagnosis._finding import Finding, Related
from cograd.diagnosis.rules._naming import optimizer
from cograd.tracing import Cleared, Log, Step, Use

SEVERITY = "warning"
COVERS = ("leaked-gradient",)


def check(log: Log) -> Iterator[Finding]:
    """Optimizers that apply a gradient again, in more than one step or in all of them."""
    again: defaultdict[int, list[tuple[Step, Use]]] = defaultdict(list)
    for step in log.of(Step):
        old = [use for use in step.uses if use.again]
        if old and len(old) < len(step.uses):
            again[step.optimizer].append((step, old[-1]))
    for number, seen in again.items():
        if len(seen) < 2 and log.optimizers[number].steps > 2:
            continue
        step, use = seen[0]
        other = [
            c for c in log.of(Cleared) if c.owner != number and c.site.function == use.site.function
            and c.site.file == use.site.file and not c.parameters & use.parameters
        ]  # fmt: skip
        near = min(other, key=lambda c: abs(c.site.line - use.site.line), default=None)
        own = next((c for c in log.of(Cleared) if c.owner == number and c.parameters & use.parameters), None)
        name = optimizer(log, number)
        if own is not None and log.count(own) < log.optimizers[number].steps:
            yield Finding(
                own.site,
                f"{name} applies old gradients again in some steps: {own.site.text} runs {log.count(own)} times for "
                f"{log.optimizers[number].steps} steps",
                "call it before the backward passes of every step",
                (
                    Related("zero_grad", own.site, "does not run for every step"),
                    Related("backward", use.site, "adds to the gradients that are there"),
                    Related("step", step.site, "applies the old ones again"),
                ),
            )
            continue
        site = use.site if near is None else near.site
        call = f"{name}.zero_grad()"
        related = [] if near is None else [Related("zero_grad", near.site, f"does not clear those of {name}")]
        yield Finding(
            site,
            f"{name} applies old gradients again in each step: nothing clears them",
            f"call {call} {'here too' if near else 'before this line'}",
            (
                *related,
                Related("backward", use.site, "adds to the gradients that are there"),
                Related("step", step.site, "applies the old ones again"),
            ),
        )
