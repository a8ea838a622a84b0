"""ConFIG: a direction with equal cosines to all gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from cograd.weighting._contract import Seen, State, Weighting
from cograd.weighting._gramian import Array, Geometry, combined
from cograd.weighting._solvers._matrix import equal_products, length


@final
@dataclass(frozen=True, slots=True)
class ConFIG(Weighting):
    r"""The direction with equal cosines to all gradients, as long as their projections on it together.

    With :math:`\hat J` the unit gradients, :math:`u = \hat J^+ 1` and the direction is
    :math:`(\sum_i g_i^T \hat u)\, \hat u`. In terms of the cosines C, :math:`u = \hat J^T C^+ 1`.
    Scaling all gradients scales the direction; scaling one changes only its length. Balanced losses
    get ones.

    With dependent gradients the cosines are as equal as they can be, with the smallest weights. Where
    no direction has a positive cosine to any gradient (opposite gradients), all weights are zero. A
    loss without a gradient is left out with weight 1.

    >>> ConFIG()(gramian=torch.tensor([[18.0, -22.0], [-22.0, 38.0]]))
    tensor([1.2265, 0.8441], dtype=torch.float64)

    References:
        Q. Liu, M. Chu, N. Thuerey, *ConFIG: Towards Conflict-free Training of Physics Informed
        Neural Networks*, ICLR 2025, https://arxiv.org/abs/2408.11104. Checked against the authors'
        code, tum-pbs/ConFIG, ``conflictfree/grad_operator.py``.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"gramian"})

    def weigh(self, seen: Seen, state: State) -> tuple[Tensor, State]:
        """See :class:`Weighting`."""
        return combined(self, seen, _weights), state


def _weights(here: Geometry) -> Array:
    z = equal_products(here.cosines)
    size = length(here.cosines, z)
    if size <= 1e-6:
        return 0 * z
    projected = float(here.norms @ here.cosines @ z) / size
    weights: Array = z / here.norms * (projected / size)
    return weights
