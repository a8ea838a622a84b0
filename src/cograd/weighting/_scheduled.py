"""Scheduled: weights that follow the step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from cograd._arity import misfit
from cograd.errors import WeightingError, shown
from cograd.weighting._contract import Seen, State, Weighting, check_factors

Factor = float | Callable[[int], float]  # a number, or a function of the step


@final
@dataclass(frozen=True, slots=True)
class Scheduled(Weighting):
    r"""The weighted sum :math:`\sum_i w_i(t) L_i`, where :math:`t` counts the batches seen before.

    While a weight is 0 its loss is dropped: a loss given as a callable is not even evaluated.

    ``Joint(weights={"loss1": lambda step: ...})`` says the same, and leaves room for another rule
    beside it. This one is for where a rule is asked for: a single phase, ``Phase(weighting=...)``, or
    ``Stateful`` in a loop of your own, where it counts the calls.

    Args:
        schedules: loss name -> a number, or a function of the step (int) that returns one; 1 for a
            loss without an entry.

    >>> rule = Scheduled({"loss1": lambda step: min(1.0, step / 1000)})
    >>> rule(torch.tensor([3.0, 5.0]))
    tensor([1., 0.], dtype=torch.float64)
    """

    schedules: Mapping[str, Factor]
    needs: ClassVar[frozenset[str]] = frozenset()
    remembers: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_factors(self, self.schedules, "finite number, or a function of the step", callables=True)
        for name, schedule in self.schedules.items():
            if callable(schedule) and (problem := misfit(f"Scheduled: the weight of {shown(name)}", schedule, "step")):
                raise WeightingError(problem)

    @property
    def mentions(self) -> Iterable[str]:
        """See :class:`Weighting`."""
        return self.schedules

    def weigh(self, seen: Seen, state: State) -> tuple[Tensor, State]:
        """See :class:`Weighting`."""
        weights = [
            factor_at(f"Scheduled: the weight of {shown(name)}", self.schedules.get(name, 1.0), seen.step)
            for name in seen.names
        ]
        return torch.tensor(weights, dtype=torch.float64), state


def factor_at(what: str, factor: Factor, step: int) -> float:
    """The number that ``factor`` is at ``step``.

    Raises:
        WeightingError: it is no finite number. What a function raises goes through, with a note.
    """
    if not callable(factor):
        return float(factor)
    try:
        found: object = factor(step)
    except Exception as error:
        error.add_note(f"That is from {what}, which was called with step {step}.")
        raise
    try:
        number = math.nan if isinstance(found, str) else float(found)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError):
        number = math.nan
    if not math.isfinite(number):
        raise WeightingError(f"{what} must be a finite number at each step; found {shown(found)} at step {step}.")
    return number
