"""Means over the steps since the last log, read from the device only when they are asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor

from cograd._report import StepReport

MOST = 1000  # reports that are kept as they are; a number takes less memory


@final
class Window:
    """Keeps the reports of some steps. Nothing is computed, and nothing waits for a GPU, before ``means``.

    >>> x = torch.tensor(3.0, requires_grad=True)
    >>> window = Window()
    >>> for _ in range(4):
    ...     window.add(StepReport([cograd.backward({"square": x**2}, weights={"square": 0.5})]))
    >>> window.means()
    {'loss/square': 9.0, 'weight/square': 0.5}
    """

    def __init__(self) -> None:
        self._earlier: dict[str, list[float]] = {}
        self._reports: list[StepReport] = []

    def add(self, report: StepReport) -> None:
        """Take note of one step."""
        self._reports.append(report)
        if len(self._reports) == MOST:
            self._earlier = self._numbers()
            self._reports.clear()

    def __len__(self) -> int:
        return len(self._reports) + len(self._earlier)

    def means(self) -> dict[str, float]:
        """Name -> mean over the steps that have it, and a new window begins."""
        numbers = self._numbers()
        self._earlier.clear()
        self._reports.clear()
        return {name: _mean(values) for name, values in numbers.items()}

    def state_dict(self) -> dict[str, Any]:
        """Every number of the window, so that a resumed run has the same means to the last bit."""
        return {"numbers": self._numbers()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where ``state`` was taken."""
        self._reports.clear()
        self._earlier = {name: list(values) for name, values in state["numbers"].items()}

    def _numbers(self) -> dict[str, list[float]]:
        found: dict[str, list[Any]] = {}
        for report in self._reports:
            for name, value in named(report).items():
                found.setdefault(name, []).append(value)
        numbers = {name: list(values) for name, values in self._earlier.items()}
        for name, values in found.items():
            numbers.setdefault(name, []).extend(to_numbers(values))
        return numbers


def named(report: StepReport) -> dict[str, Tensor | float]:
    """What one step reports, under the names by which it is logged."""
    return {
        f"{kind}/{name}": value
        for kind, values in (
            ("loss", report.losses),
            ("metric", report.metrics),
            ("weight", report.weights),
            ("grad_norm", report.grad_norms),
        )
        for name, value in values.items()
    }


def to_numbers(values: Sequence[Tensor | float]) -> list[float]:
    """Read scalars of one device, with one synchronisation."""
    where = [i for i, value in enumerate(values) if isinstance(value, Tensor)]
    read = torch.stack([values[i] for i in where]).flatten().tolist() if where else []  # type: ignore[misc]
    found = dict(zip(where, read, strict=True))
    return [found[i] if i in found else float(value) for i, value in enumerate(values)]


def _mean(values: Sequence[float]) -> float:
    try:
        return math.fsum(values) / len(values)
    except (OverflowError, ValueError):  # infinities of both signs, which fsum refuses
        return sum(values) / len(values)
