"""Scheduled: weights that follow the step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from cograd.errors import WeightingError
from cograd.weighting._contract import Seen, State, Weighting, check_factors


@final
@dataclass(frozen=True, slots=True)
class Scheduled(Weighting):
    r"""The weighted sum :math:`\sum_i w_i(t) L_i`, where :math:`t` counts the batches seen before.

    While a weight is 0 its loss is dropped: a loss given as a callable is not even evaluated.

    Args:
        schedules: loss name -> a number, or a function of the step (int) that returns one; 1 for a
            loss without an entry.

    >>> rule = Scheduled({"loss1": lambda step: min(1.0, step / 1000)})
    >>> rule(torch.tensor([3.0, 5.0]))
    tensor([1., 0.], dtype=torch.float64)
    """

    schedules: Mapping[str, float | Callable[[int], float]]
    needs: ClassVar[frozenset[str]] = frozenset()
    remembers: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_factors(self, self.schedules, "finite number, or a function of the step", callables=True)

    @property
    def mentions(self) -> Iterable[str]:
        """See :class:`Weighting`."""
        return self.schedules

    def weigh(self, seen: Seen, state: State) -> tuple[Tensor, State]:
        """See :class:`Weighting`."""
        return torch.tensor([self._now(name, seen.step) for name in seen.names], dtype=torch.float64), state

    def _now(self, name: str, step: int) -> float:
        schedule = self.schedules.get(name, 1.0)
        value = schedule(step) if callable(schedule) else schedule
        try:
            return float(value)
        except (TypeError, ValueError):
            raise WeightingError(
                f"Scheduled: the weight of {name!r} must be a number at each step; found {value!r} at step {step}."
            ) from None
