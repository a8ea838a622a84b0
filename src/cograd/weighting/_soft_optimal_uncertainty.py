"""SoftOptimalUncertainty: the best variances at once, softened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from cograd.weighting._contract import Seen, State, Weighting, check_choice, check_number, observed, softmax, spread


@final
@dataclass(frozen=True, slots=True)
class SoftOptimalUncertainty(Weighting):
    r"""A softmax of the reciprocal losses: :math:`w = K\,\mathrm{softmax}(1 / (T L))`.

    :math:`1 / L_i` is the weight that uncertainty weighting tends to; here it is taken at once from
    the present batch, and T tempers it: the larger T, the more equal the weights. K counts the
    present losses. The weights change with the unit of the losses, and so must T.

    The smallest loss weighs most: with T of about one and losses well below one it takes nearly all
    the weight. Zero counts as ``floor``. A negative loss makes all weights NaN, which the finite
    check of a step reports before any parameter moves.

    Args:
        temperature: T, in units of one over the loss, above 0. It has to be searched for.
        floor: the smallest loss (in units of the loss) that is divided by.
        scale: ``"sum"``: the weights add up to K; ``"paper"``: to 1.

    >>> SoftOptimalUncertainty(temperature=2.0)(torch.tensor([1.0, 0.5]))
    tensor([0.7551, 1.2449])

    References:
        Kirchdorfer et al., Analytical Uncertainty-Based Loss Weighting in Multi-Task Learning,
        GCPR 2024, https://arxiv.org/abs/2408.07985. The formula and the default floor were checked
        against ``UW_SO``, written for LibMTL: softmax((1 / (L + 1e-8)) / T). Deviations: the factor K;
        a floor instead of an added constant.
    """

    temperature: float = 1.0
    floor: float = 1e-8
    scale: str = "sum"

    def __post_init__(self) -> None:
        check_number(self, "temperature", positive=True)
        check_number(self, "floor", positive=True)
        check_choice(self, "scale", ("sum", "paper"))

    def objection(self, loss: float) -> str:
        """See :class:`Weighting`."""
        return "" if loss >= 0 else "needs losses that are not negative"

    def weigh(self, seen: Seen, state: State) -> tuple[Tensor, State]:
        """See :class:`Weighting`."""
        names, losses = observed(seen)
        best = torch.where(losses < 0, torch.nan, 1 / losses.clamp_min(self.floor))
        weights = softmax(best / self.temperature)
        return spread(weights * len(names) if self.scale == "sum" else weights, seen), state
