"""What a run has seen: every value by name, why it stopped, and its best."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, final

import torch

from cograd.errors import StateError, UnknownValueError, shown, unknown


@final
@dataclass(frozen=True, slots=True)
class Series:
    """The numbers of one value, and the steps after which they were taken.

    >>> series = Series([50, 100], [0.7, 0.4])
    >>> series.last, len(series)
    (0.4, 2)
    """

    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    @property
    def last(self) -> float:
        """The newest number."""
        return self.values[-1]

    def __len__(self) -> int:
        return len(self.values)


@final
@dataclass(frozen=True, slots=True)
class Best:
    """The best value of the metric that ``fit(best=...)`` names, and after which step it was."""

    metric: str
    value: float
    step: int


@final
class History(Mapping[str, Series]):
    """What ``fit`` returns: every logged value by name, of the whole run, earlier parts included. ``print`` it.

    Attributes:
        stopped_by: why the run ended, in words; None while it goes on.
        best: the best value of the metric that was asked for; None without one.
        steps: steps done.
        epochs: epochs completed.

    >>> history = cograd.History()
    >>> history.add({"loss/digit": 0.7}, step=50)
    >>> history.add({"loss/digit": 0.4, "val/digit": 0.5}, step=100)
    >>> history["loss/digit"].values, history["val/digit"].steps
    ([0.7, 0.4], [100])
    >>> print(history)
    value       first  last        lowest        highest
    loss/digit    0.7   0.4  0.4 (at 100)    0.7 (at 50)
    val/digit     0.5   0.5  0.5 (at 100)   0.5 (at 100)
    100 steps, 0 epochs
    """

    def __init__(self) -> None:
        self._series: dict[str, Series] = {}
        self.stopped_by: str | None = None
        self.best: Best | None = None
        self.steps = 0
        self.epochs = 0

    def add(self, values: Mapping[str, float], step: int) -> None:
        """Take note of ``values``, seen after ``step`` steps."""
        self.steps = step
        for name, value in values.items():
            series = self._series.setdefault(name, Series())
            series.steps.append(step)
            series.values.append(value)

    def __getitem__(self, name: str) -> Series:
        if not isinstance(name, str) or name not in self._series:
            raise UnknownValueError(f"This history has no value {shown(name)}. {unknown('values', name, self._series)}")
        return self._series[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._series)

    def __len__(self) -> int:
        return len(self._series)

    def __repr__(self) -> str:
        return f"History({len(self)} values, {self.steps} steps, {self.epochs} epochs, stopped_by={self.stopped_by!r})"

    def __str__(self) -> str:
        rows: list[tuple[str, ...]] = [("value", "first", "last", "lowest", "highest")]
        for name, series in self.items():
            numbers = [pair for pair in zip(series.values, series.steps, strict=True) if not math.isnan(pair[0])]
            low, high = (best(numbers, key=itemgetter(0), default=None) for best in (min, max))
            ends = [f"{found[0]:.4g} (at {found[1]})" if found else "nan" for found in (low, high)]
            rows.append((name, f"{series.values[0]:.4g}", f"{series.last:.4g}", *ends))
        widths = [max(len(row[i]) for row in rows) for i in range(5)]
        lines = [
            "  ".join(
                cell.rjust(width) if i else cell.ljust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            for row in rows
        ]
        ended = f"; stopped: {self.stopped_by}" if self.stopped_by else ""
        lines.append(f"{self.steps} steps, {self.epochs} epochs{ended}")
        if self.best:
            lines.append(f"best {self.best.metric}: {self.best.value:.4g} at step {self.best.step}")
        return "\n".join(lines)

    def state_dict(self) -> dict[str, Any]:
        """Everything, in plain tensors, numbers and containers: a list of numbers would be saved one by one."""
        return {
            "series": {
                name: {
                    "steps": torch.tensor(s.steps, dtype=torch.int64),
                    "values": torch.tensor(s.values, dtype=torch.float64),
                }
                for name, s in self._series.items()
            },
            "stopped_by": self.stopped_by,
            "best": None if self.best is None else [self.best.metric, self.best.value, self.best.step],
            "steps": self.steps,
            "epochs": self.epochs,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Become what ``state`` was taken of.

        Raises:
            StateError: it is no state of a history, or a damaged one. Nothing was loaded.
        """
        try:
            series = {name: _series(saved) for name, saved in state["series"].items()}
            if not all(isinstance(name, str) for name in series):
                raise TypeError("the name of a value is a string")
            best = None if state["best"] is None else Best(*state["best"])
            stopped_by, steps, epochs = state["stopped_by"], int(state["steps"]), int(state["epochs"])
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise StateError(
                f"This is no state of a History, or a damaged one (found a {type(state).__name__}; "
                f"{type(error).__name__}: {str(error)[:80]}). Nothing was loaded. Resume from another checkpoint."
            ) from error
        self._series, self.best = series, best
        self.stopped_by, self.steps, self.epochs = stopped_by, steps, epochs


def _series(saved: Mapping[str, Any]) -> Series:
    steps, values = saved["steps"].tolist(), saved["values"].tolist()
    if len(steps) != len(values):
        raise ValueError(f"{len(steps)} steps and {len(values)} values")
    return Series(steps, values)
