"""Log: the sum of the logarithms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from cograd.weighting._contract import Seen, State, Weighting, observed, spread


@final
@dataclass(frozen=True, slots=True)
class Log(Weighting):
    r"""The gradient of :math:`\sum_i \log L_i`, that is :math:`w_i = 1 / L_i`.

    Halving any loss counts the same, whatever its unit. It needs no history, and it is what
    ``loss / loss.detach()`` computes.

    A loss that is not positive has no logarithm: its weight is NaN, which the finite check of a
    step reports before any parameter moves.

    >>> Log()(torch.tensor([200.0, 0.5]))
    tensor([0.0050, 2.0000])

    References:
        The logarithm of the geometric mean of Chennupati et al., MultiNet++, CVPR Workshops 2019,
        https://arxiv.org/abs/1904.08492.
    """

    def objection(self, loss: float) -> str:
        """See :class:`Weighting`."""
        return "" if loss > 0 else "needs positive losses"

    def weigh(self, seen: Seen, state: State) -> tuple[Tensor, State]:
        """See :class:`Weighting`."""
        _, losses = observed(seen)
        return spread(torch.where(losses > 0, 1.0 / losses, torch.nan), seen), state
