"""GeometricMean: the K-th root of the product."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from cograd.weighting._contract import Seen, State, Weighting, observed, spread, total


@final
@dataclass(frozen=True, slots=True)
class GeometricMean(Weighting):
    r"""The gradient of :math:`G = (\prod_i L_i)^{1/K}`, that is :math:`w_i = G / (K L_i)`.

    K counts the present losses. The direction is that of :class:`Log`, and the length shrinks with
    the losses: the weighted losses add up to G, each of them contributing G / K. This is the
    formula's own scale; equal losses weigh 1 / K each.

    A loss that is not positive has no geometric mean with the others: all weights are NaN, which
    the finite check of a step reports before any parameter moves.

    >>> GeometricMean()(torch.tensor([2.0, 0.5, 4.0]))
    tensor([0.2646, 1.0583, 0.1323])

    References:
        Chennupati et al., MultiNet++: Multi-Stream Feature Aggregation and Geometric Loss Strategy
        for Multi-Task Learning, CVPR Workshops 2019, https://arxiv.org/abs/1904.08492. Value and
        gradient agree with ``GeometricMean`` of TorchJD 0.18; computed through logarithms, so that
        no product overflows.
    """

    def objection(self, loss: float) -> str:
        """See :class:`Weighting`."""
        return "" if loss > 0 else "needs positive losses"

    def weigh(self, seen: Seen, state: State) -> tuple[Tensor, State]:
        """See :class:`Weighting`."""
        names, losses = observed(seen)
        logs = torch.where(losses > 0, losses, torch.nan).log()
        return spread((total(logs) / len(names) - logs).exp() / len(names), seen), state
