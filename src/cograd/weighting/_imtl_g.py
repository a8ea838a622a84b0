"""IMTLG: a direction with equal projections on all unit gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
from torch import Tensor

from cograd.weighting._contract import Seen, State, Weighting
from cograd.weighting._gramian import Array, Geometry, check_scale, combined
from cograd.weighting._solvers._matrix import NOTHING, equal_products


@final
@dataclass(frozen=True, slots=True)
class IMTLG(Weighting):
    r"""Impartial gradients: :math:`(J^T w)^T \hat g_i` is the same for all i, and :math:`\sum_i w_i = 1`.

    Scaling all gradients changes nothing; scaling one changes only the length of the direction. For
    three losses or more, weights may be negative, and if the unnormalised weights sum to less than
    zero the common projection is negative too: every loss then rises. That is the method.

    With dependent gradients the projections are as equal as they can be, with the smallest
    weights; equal gradients share alike, opposite ones cancel. Unnormalised weights that sum to zero
    cannot be made to sum to 1: then all weights are zero, and the shared parameters stand still. A
    loss without a gradient is left out with weight 1.

    Args:
        scale: ``"sum"`` multiplies by the number of losses, so that balanced losses get ones;
            ``"paper"`` gives weights that sum to 1.

    >>> IMTLG(scale="paper")(gramian=torch.tensor([[18.0, -22.0], [-22.0, 38.0]]))
    tensor([0.5923, 0.4077], dtype=torch.float64)

    References:
        L. Liu et al., *Towards Impartial Multi-task Learning*, ICLR 2021,
        https://openreview.net/forum?id=IMPnRXEWpvr. Deviation: solved with the cosines,
        :math:`w_i \propto (C^+ 1)_i / \|g_i\|`, which for independent gradients is the paper's.
    """

    scale: str = "sum"
    needs: ClassVar[frozenset[str]] = frozenset({"gramian"})

    def __post_init__(self) -> None:
        check_scale(self, self.scale)

    def weigh(self, seen: Seen, state: State) -> tuple[Tensor, State]:
        """See :class:`Weighting`."""
        return combined(self, seen, self._weights), state

    def _weights(self, here: Geometry) -> Array:
        z = equal_products(here.cosines)
        if np.abs(z).max() <= 1e-6:  # nothing but opposites: any equal shares cancel
            z = np.ones(len(z))
        shares = z / here.norms
        total = float(shares.sum())
        if abs(total) <= NOTHING * np.abs(shares).sum():
            return 0 * shares
        weights: Array = shares / total
        return weights * len(weights) if self.scale == "sum" else weights
