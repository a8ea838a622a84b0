"""What comes out of a run: findings, who trains whom, and what could not be checked."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from cograd.diagnosis._finding import Finding
from cograd.tracing import Backward, Log, cut
from cograd.tracing import reached as values_reached


@dataclass(frozen=True, slots=True)
class Route:
    """A loss, the line of its backward, and the models that it gives gradients to.

    Attributes:
        loss: in the words of the script.
        file: of the backward.
        line: of the backward.
        models: that get a gradient.
        times: how often it ran.
        cuts: models on which the loss depends without giving them a gradient, and where it is cut.
    """

    loss: str
    file: str
    line: int
    models: tuple[str, ...]
    times: int
    cuts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """The result of a run.

    Attributes:
        findings: the worst first.
        routes: who trains whom.
        steps: optimizer steps that were made.
        outcome: how the run ended.
        unchecked: what could not be checked, and why.
    """

    findings: tuple[Finding, ...]
    routes: tuple[Route, ...]
    steps: int
    outcome: str
    unchecked: tuple[str, ...]

    @property
    def failed(self) -> bool:
        """Whether there is an error or a warning."""
        return any(f.severity in ("error", "warning") for f in self.findings)


def routes(log: Log, *, why: bool = False) -> tuple[Route, ...]:
    """Each backward of the script, with the models that got a gradient from it."""
    reached: defaultdict[tuple[str, str, int], dict[str, None]] = defaultdict(dict)
    times: defaultdict[tuple[str, str, int], int] = defaultdict(int)
    for event in log.of(Backward):
        key = event.loss, event.site.file, event.site.line
        names = [log.parameters[p].model for p in event.reached if p in log.parameters]
        reached[key] |= dict.fromkeys(sorted({name for name in names if name}))
        if names and not any(names):
            reached[key]["a model that no variable holds"] = None
        times[key] = log.count_at(Backward, event.site)
    cuts = _cuts(log) if why else {}
    return tuple(Route(*key, tuple(models), times[key], tuple(cuts.get(key, ()))) for key, models in reached.items())


def _cuts(log: Log) -> dict[tuple[str, str, int], list[str]]:
    found: defaultdict[tuple[str, str, int], list[str]] = defaultdict(list)
    for event in log.of(Backward):
        key = event.loss, event.site.file, event.site.line
        for root in event.roots:
            missed = values_reached(log.values, root, differentiable=False) - event.reached
            for model in sorted({log.parameters[p].model for p in missed if p in log.parameters} - {""}):
                parameters = [p for p in missed if p in log.parameters and log.parameters[p].model == model]
                place = cut(log.values, root, parameters)
                if place is not None:
                    line = f"{model}: {place.phrase} at line {place.value.site.line}: {place.value.site.source}"
                    if line not in found[key]:
                        found[key].append(line)
    return found
