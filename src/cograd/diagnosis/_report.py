"""What comes out of a run: findings, who trains whom, and what could not be checked."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from cograd.diagnosis._finding import Finding
from cograd.tracing import Backward, Log


@dataclass(frozen=True, slots=True)
class Route:
    """A loss, the line of its backward, and the models that it gives gradients to."""

    loss: str
    file: str
    line: int
    models: tuple[str, ...]
    times: int


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


def routes(log: Log) -> tuple[Route, ...]:
    """Each backward of the script, with the models that got a gradient from it."""
    reached: defaultdict[tuple[str, str, int], dict[str, None]] = defaultdict(dict)
    times: defaultdict[tuple[str, str, int], int] = defaultdict(int)
    for event in log.of(Backward):
        key = event.loss, event.site.file, event.site.line
        names = {log.parameters[p].model for p in event.reached if p in log.parameters}
        reached[key] |= dict.fromkeys(sorted(name for name in names if name))
        times[key] = log.count_at(Backward, event.site)
    return tuple(Route(*key, tuple(models), times[key]) for key, models in reached.items())
