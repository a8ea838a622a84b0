"""Gradients of a validation reach the next training step.

What it does:
    Finds a backward in evaluation mode whose gradients are still there when a training step applies its own.

Why it is bad:
    The model is trained on the validation data.

Example:
    net.eval()
    val_loss.backward()
    net.train()

Use instead:
    net.eval()
    with torch.no_grad():
        val_loss = criterion(net(x_val), y_val)
    net.train()
"""

from __future__ import annotations

from collections.abc import Iterator

from cograd.diagnosis._finding import Finding, Related
from cograd.tracing import Backward, Log, Step

SEVERITY = "warning"
COVERS = ("leaked-gradient",)


def check(log: Log) -> Iterator[Finding]:
    """Steps on gradients of which some were made in evaluation mode and some were not."""
    passes = {event.at: event for event in log.of(Backward)}
    training = {event.site for event in passes.values() if not event.evaluating}
    for step in log.of(Step):
        used = [passes[use.backward] for use in step.uses if use.backward in passes and not use.again]
        leaked = [event for event in used if event.evaluating and event.site not in training]
        own = [event for event in used if not event.evaluating]
        if leaked and own:
            yield Finding(
                leaked[0].site,
                f"{leaked[0].site.text} runs in evaluation mode, and {step.site.text} applies its gradients",
                "evaluate under torch.no_grad(), without backward, or clear the gradients after it",
                (
                    Related("backward", leaked[0].site, "in evaluation mode"),
                    Related("backward", own[0].site, "adds those of training"),
                    Related("step", step.site, "applies both"),
                ),
            )
