"""RunningStd: each loss relative to how much it varies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from cograd.weighting._contract import (
    Seen,
    State,
    Weighting,
    check_number,
    constant,
    observed,
    recalled,
    spread,
    stored,
)


@final
@dataclass(frozen=True, slots=True)
class RunningStd(Weighting):
    r"""Divide each loss by a running standard deviation: :math:`w_i = 1 / \sqrt{v_i}`.

    :math:`v_i` is the exponential moving average of :math:`(L_i - m_i)^2` around the running mean
    :math:`m_i` of the batches before, both corrected for their start. A first value has no
    deviation: its loss is divided by its magnitude instead.

    Args:
        beta: share of the past that is kept at each step, in [0, 1).
        floor: the smallest deviation that is divided by, as a share of the mean's magnitude. A loss
            that hardly varies would otherwise be blown up without bound.

    State:
        ``mean``, ``variance``: name -> uncorrected average; ``count``: name -> batches in which it
        was present.

    >>> RunningStd()(torch.tensor([200.0, 0.5]))
    tensor([0.0050, 2.0000])
    """

    beta: float = 0.99
    floor: float = 1e-3
    remembers: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_number(self, "beta", below=1)
        check_number(self, "floor")

    def weigh(self, seen: Seen, state: State) -> tuple[Tensor, State]:
        """See :class:`Weighting`."""
        names, losses = observed(seen)
        means, variances, counts = (state.get(key, {}) for key in ("mean", "variance", "count"))
        past = [counts.get(name, 0) for name in names]
        fresh = constant([n == 0 for n in past], losses) > 0
        share = constant([1 - self.beta**n if n else 1.0 for n in past], losses)
        mean = recalled(means, names, losses)
        centre = torch.where(fresh, losses, mean / share)
        variance = self.beta * recalled(variances, names, losses) + (1 - self.beta) * (losses - centre) ** 2
        scale = torch.where(fresh, losses.abs(), torch.maximum((variance / share).sqrt(), self.floor * centre.abs()))
        mean = self.beta * mean + (1 - self.beta) * losses
        return spread(1.0 / scale.clamp_min(torch.finfo(losses.dtype).tiny), seen), {
            "mean": stored(means, names, mean.unbind()),
            "variance": stored(variances, names, variance.unbind()),
            "count": stored(counts, names, [n + 1 for n in past]),
        }
