"""With a GradScaler, a loss is differentiated unscaled, or an optimizer steps on scaled gradients.

What it does:
    Finds losses that are differentiated without ``scaler.scale`` beside others that are, into the same optimizer, and
    ``optimizer.step()`` in place of ``scaler.step(optimizer)``.

Why it is bad:
    Gradients of the two losses differ by a factor of thousands; or the step is taken on gradients that are thousands
    of times too large.

Example:
    scaler.scale(loss_a).backward()
    loss_b.backward()
    scaler.step(optimizer)

Use instead:
    scaler.scale(loss_a).backward()
    scaler.scale(loss_b).backward()
    scaler.step(optimizer)
"""

from __future__ import annotations

from collections.abc import Iterator

from cograd.diagnosis._finding import Finding, Related
from cograd.diagnosis.rules._naming import optimizer
from cograd.tracing import Backward, Log, Step

SEVERITY = "error"


def check(log: Log) -> Iterator[Finding]:
    """Steps on what was scaled differently than the step assumes."""
    if not log.scaling:
        return
    passes = {event.at: event for event in log.of(Backward)}
    scaled_sites = {event.site for event in passes.values() if event.scaled}
    for step in log.of(Step):
        used = [passes[use.backward] for use in step.uses if use.backward in passes and not use.again]
        plain = [event for event in used if event.site not in scaled_sites]
        scaled = [event for event in used if event.scaled]
        if step.scaler and plain:
            yield Finding(
                plain[0].site,
                f"{plain[0].loss} is not scaled, and {step.site.text} divides its gradient by the scale",
                f"scaler.scale({plain[0].loss}).backward()",
                (
                    *[Related("backward", e.site, "is scaled") for e in scaled[:1]],
                    Related("backward", plain[0].site, "is not scaled"),
                    Related("step", step.site, "divides by the scale"),
                ),
            )
        elif not step.scaler and scaled and not step.unscaled:
            name = optimizer(log, step.optimizer)
            yield Finding(
                step.site,
                f"{step.site.text} applies scaled gradients of {scaled[0].loss}: the scaler is left out",
                f"scaler.step({name}) in place of {name}.step(), and scaler.update() at the end of the iteration",
                (Related("backward", scaled[0].site, "is scaled"), Related("step", step.site, "does not unscale")),
            )
