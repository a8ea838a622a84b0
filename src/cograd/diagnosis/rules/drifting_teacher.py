"""A model that is meant to stay as it is changes.

What it does:
    Finds models that are frozen, or that run without gradient and are in no optimizer, and on which a loss depends,
    but which run in training mode, so that each forward updates the statistics of their batch normalisation. Also
    finds frozen parameters that weight decay or momentum move, because their gradient is zero and not ``None``.

Why it is bad:
    The teacher drifts with the batches that it sees, and the student follows a moving target.

Example:
    teacher.requires_grad_(False)
    for x in batches:
        loss = mse_loss(student(x), teacher(x))

Use instead:
    teacher.requires_grad_(False)
    teacher.eval()
    for x in batches:
        loss = mse_loss(student(x), teacher(x))
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from cograd.diagnosis._finding import Finding, Related
from cograd.diagnosis.rules._naming import models, optimizer
from cograd.tracing import Backward, Copied, Flagged, Log, Normalised, Site, Step, reached

SEVERITY = "warning"
FOLLOWS = True


def check(log: Log) -> Iterator[Finding]:
    """Frozen models in training mode, and frozen parameters that move."""
    yield from _statistics(log)
    yield from _weights(log)


def _statistics(log: Log) -> Iterator[Finding]:
    calls: defaultdict[Site, list[Normalised]] = defaultdict(list)
    for event in log.of(Normalised):
        calls[event.site].append(event)
    used = [(e, p) for e in log.of(Backward) for r in e.roots if (p := reached(log.values, r, differentiable=False))]
    for site, events in calls.items():
        first = events[0]
        held = first.parameters
        learns = next((e for e, p in used if p & held and e.reached - held and e.at > first.at), None)
        if learns is None or len({e.steps for e in events}) < 2 or not _meant_to_stay(log, events):
            continue
        frozen = [e for e in log.of(Flagged) if not e.on and e.parameters & held and e.at < first.at]
        yield Finding(
            site,
            f"{first.name} is not trained, and runs in training mode here: the statistics of its batch normalisation "
            f"change with each {site.text}",
            f"call {first.name}.eval() before the loop, and after any train() that includes it",
            (
                *([Related("freeze", frozen[-1].site)] if frozen else ()),
                Related("forward", site, "updates its statistics"),
                Related("backward", learns.site, f"trains {models(log, learns.reached)} on its output"),
            ),
        )


def _meant_to_stay(log: Log, events: list[Normalised]) -> bool:
    """Whether nothing trains or writes the model from its first forward here on."""
    first, held = events[0], events[0].parameters
    if any(e.parameters != held or not (e.frozen or not e.grad_mode) for e in events):
        return False
    owned = frozenset(p for o in log.optimizers.values() for p in o.parameters)
    trained = any(e.at > first.at for e in log.of(Backward) if e.reached & held)
    moved = any(log.parameters[p].written or log.parameters[p].follows for p in held if p in log.parameters)
    stepped = any(e.at > first.at and _moves(e) & held for e in log.of(Step))
    switched = any(e.at > first.at and e.on and e.parameters & held for e in log.of(Flagged))
    copied = any(held.intersection(pair) for e in log.of(Copied) for pair in e.pairs)
    return not (trained or moved or stepped or switched or copied) and (first.frozen or not held & owned)


def _moves(step: Step) -> frozenset[int]:
    return step.unknown.union(*(use.parameters for use in step.uses))


def _weights(log: Log) -> Iterator[Finding]:
    told = set()
    for step in log.of(Step):
        alive = step.empty or step.unknown or any(not use.again for use in step.uses)
        if not step.drifting or not alive or step.optimizer in told:
            continue
        told.add(step.optimizer)
        name = models(log, step.drifting)
        frozen = [e for e in log.of(Flagged) if not e.on and e.parameters & step.drifting and e.at < step.at]
        yield Finding(
            step.site,
            f"{name} is frozen, and {optimizer(log, step.optimizer)} moves it: its gradient is zero, not None, so that "
            "weight decay and momentum go on",
            f"call {name}.zero_grad() when it is frozen, or zero_grad() without set_to_none=False",
            (*([Related("freeze", frozen[-1].site)] if frozen else ()), Related("step", step.site, "moves it")),
        )
