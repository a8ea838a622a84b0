"""Parameters that are trained by a loss and held by no optimizer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from cograd.diagnosis.rules._terms import applied
from cograd.tracing import Backward, Copied, Log, OptimizerMade, Replaced, Step


@dataclass(frozen=True, slots=True)
class Orphans:
    """Parameters of one model that get gradients and have no optimizer.

    Attributes:
        parameters: they.
        backward: the first backward that gave them gradients.
        optimizer: the one that applies the other gradients of that backward.
        hidden: the attribute that hides them in a list; empty if none.
        twin: the event that made them take the place of parameters which the optimizer holds; None if none.
    """

    parameters: frozenset[int]
    backward: Backward
    optimizer: int
    hidden: str
    twin: Copied | Replaced | OptimizerMade | None


def orphans(log: Log) -> Iterator[Orphans]:
    """They, one entry per model."""
    owned = frozenset(p for o in log.optimizers.values() for p in o.parameters)
    owned |= frozenset(p for o in log.of(OptimizerMade) for p in o.parameters)
    stepped = applied(log)
    told: set[int] = set()
    for event in log.of(Backward):
        used = stepped.get(event.at, frozenset())
        lost = event.reached - owned - told
        lost = frozenset(p for p in lost if p in log.parameters and _meant_to_train(log, p))
        by = _optimizer(log, event.at)
        if not lost or by is None or (not used and event.reached - lost):
            continue
        told |= lost
        groups: dict[tuple[str, str], set[int]] = {}
        for p in lost:
            groups.setdefault((log.parameters[p].model, log.unregistered.get(p, "")), set()).add(p)
        for (_, hidden), group in groups.items():
            yield Orphans(frozenset(group), event, by, hidden, _twin(log, frozenset(group), owned))


def _meant_to_train(log: Log, number: int) -> bool:
    known = log.parameters[number]
    return known.trainable and known.registrable and known.alive and not known.loaded and not known.written


def _optimizer(log: Log, backward: int) -> int | None:
    """The optimizer that applied most of what this backward made."""
    counts: Counter[int] = Counter()
    for step in log.of(Step):
        for use in step.uses:
            if use.backward == backward:
                counts[step.optimizer] += len(use.parameters)
        if backward in step.since and not step.uses:
            counts[step.optimizer] += 0
    return counts.most_common(1)[0][0] if counts else None


def _twin(log: Log, lost: frozenset[int], owned: frozenset[int]) -> Copied | Replaced | None:
    """The event by which the parameters took the place of others that an optimizer holds and nothing trains."""
    trained = frozenset(p for event in log.of(Backward) for p in event.reached)
    for copied in log.of(Copied):
        pairs = [pair for pair in copied.pairs if lost.intersection(pair)]
        if pairs and all({*pair} & owned and not {*pair} & owned & trained for pair in pairs):
            return copied
    for replaced in log.of(Replaced):
        if replaced.new & lost and replaced.old & owned and not replaced.old & trained:
            return replaced
    return None
