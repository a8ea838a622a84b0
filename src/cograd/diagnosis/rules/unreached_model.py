"""A loss never reaches a model that its optimizer steps.

What it does:
    Finds models that an optimizer steps without a single gradient, while a loss was computed from their outputs, and
    where the way from the loss to the model is cut: every such place.

Why it is bad:
    The model stays as it is, while its loss is computed and printed.

Example:
    fake = gen(z).detach()
    g_loss = loss(disc(fake), ones)
    g_loss.backward()
    opt_g.step()

Use instead:
    g_loss = loss(disc(gen(z)), ones)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from cograd.diagnosis._finding import Finding, Related
from cograd.diagnosis.rules import _cuts
from cograd.diagnosis.rules._naming import listed, models
from cograd.tracing import Backward, Log, Step, cuts, reached

SEVERITY = "error"
FOLLOWS = True
COVERS = ("empty-step",)


def check(log: Log) -> Iterator[Finding]:
    """Models that are stepped, never reached, and on which a loss depends."""
    trained = frozenset(p for event in log.of(Backward) for p in event.reached)
    by_at = {event.at: event for event in log.of(Backward)}
    told: set[str] = set()
    for step in log.of(Step):
        missed: defaultdict[str, set[int]] = defaultdict(set)
        for p in step.empty - trained:
            if p in log.parameters:
                missed[log.parameters[p].model].add(p)
        for model, parameters in missed.items():
            whole = {p for p, known in log.parameters.items() if known.model == model}
            if model in told or whole & trained:
                continue
            for at in reversed(step.since):
                finding = _finding(log, step, by_at.get(at), frozenset(parameters))
                if finding is not None:
                    told.add(model)
                    yield finding
                    break


def _finding(log: Log, step: Step, event: Backward | None, parameters: frozenset[int]) -> Finding | None:
    for root in event.roots if event is not None else ():
        wanted = reached(log.values, root, differentiable=False) & parameters
        found = _cuts.cut(log.values, root, wanted) if wanted else None
        if event is not None and found is not None:
            places = {found.value.site.line: found} | {
                c.value.site.line: c
                for c in cuts(log.values, root, wanted)
                if c.value.site.line != found.value.site.line
            }
            told = listed([f"{c.phrase} at line {line}" for line, c in places.items()])
            return Finding(
                _cuts.primary(log, found, event),
                f"{event.loss} never reaches {models(log, parameters)}, which {step.site.text} is to train: {told}",
                "keep the operations between the model and the loss differentiable, or do not step the model",
                (
                    *(Related("cut", c.value.site, c.phrase) for c in places.values()),
                    Related("backward", event.site),
                    Related("step", step.site, "finds no gradient"),
                ),
            )
    return None
