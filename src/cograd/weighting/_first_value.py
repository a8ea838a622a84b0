"""FirstValue: each loss relative to where it started."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from cograd.weighting._contract import Seen, State, Weighting, check_number, observed, recalled, spread, stored


@final
@dataclass(frozen=True, slots=True)
class FirstValue(Weighting):
    r"""Divide each loss by the magnitude of its own first value: :math:`w_i = 1 / |L_i(0)|`.

    The total starts at the number of losses, whatever their units. It is not renormalised, so the
    gradient is exactly that of :math:`\sum_i L_i / |L_i(0)|`. The first value is a constant: unlike
    ``loss / loss.mean()``, whose gradient is exactly zero, this trains.

    Args:
        floor: first values smaller than this (in units of the loss) say nothing about its scale:
            the weight is 1 until a larger value is seen.

    State:
        ``first``: name -> the first value.

    >>> FirstValue()(torch.tensor([200.0, 0.5]))
    tensor([0.0050, 2.0000])
    """

    floor: float = 1e-12
    remembers: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_number(self, "floor", positive=True)

    def weigh(self, seen: Seen, state: State) -> tuple[Tensor, State]:
        """See :class:`Weighting`."""
        names, losses = observed(seen)
        known = state.get("first", {})
        first = recalled(known, names, losses)
        first = torch.where(first < self.floor, losses.abs(), first)
        weights = torch.where(first < self.floor, 1.0, 1.0 / first)
        return spread(weights, seen), {"first": stored(known, names, first.unbind())}
