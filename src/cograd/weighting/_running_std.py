"""RunningStd: each loss relative to how much it varies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from cograd.weighting._contract import Seen, State, Weighting, check_number, observed, stacked


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
        mean, variance, count = (dict(state.get(key, {})) for key in ("mean", "variance", "count"))
        weights = {}
        for name, loss in observed(seen).items():
            past = count.get(name, 0)
            scale = loss.abs()
            if past:
                centre = mean[name] / (1 - self.beta**past)
                variance[name] = self.beta * variance.get(name, 0.0) + (1 - self.beta) * (loss - centre) ** 2
                std = (variance[name] / (1 - self.beta**past)).sqrt()
                scale = torch.maximum(std, self.floor * centre.abs())
            mean[name] = self.beta * mean.get(name, 0.0) + (1 - self.beta) * loss
            count[name] = past + 1
            weights[name] = 1.0 / scale.clamp_min(torch.finfo(loss.dtype).tiny)
        return stacked(weights, seen), {"mean": mean, "variance": variance, "count": count}
