"""FairGrad: alpha-fair shares of the progress."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
from torch import Tensor

from cograd.weighting._contract import Seen, State, Weighting, check_number
from cograd.weighting._gramian import Array, Geometry, check_scale, combined
from cograd.weighting._solvers._fair import as_long_as_the_sum, fair_weights


@final
@dataclass(frozen=True, slots=True)
class FairGrad(Weighting):
    r"""Alpha-fair weights: the positive w with :math:`(G w)_i = w_i^{-1/\alpha}` for each loss.

    :math:`\alpha = 0` is the plain sum, 1 is :class:`NashMTL`, and larger values come near to the
    best for the worst-off loss. Scaling all gradients changes only the paper's scale; scaling one
    by s divides its weight by s if alpha is 1, by less if alpha is below and by more if above
    (by :math:`s^{2\alpha/(1+\alpha)}` for orthogonal gradients). Solved by a damped Newton method
    on a convex function.

    Where no direction improves every loss there is no such w: all weights are zero (unless alpha
    is 0), as for :class:`NashMTL`. A loss without a gradient is left out with weight 1.

    Args:
        alpha: >= 0.
        scale: ``"sum"`` makes the direction as long as the sum of the gradients, ``"paper"`` gives w.

    >>> FairGrad(alpha=2.0, scale="paper")(gramian=torch.tensor([[18.0, -22.0], [-22.0, 38.0]]))
    tensor([0.4714, 0.3195], dtype=torch.float64)

    References:
        H. Ban, K. Ji, *Fair Resource Allocation in Multi-Task Learning*, ICML 2024, Eq. 4,
        https://arxiv.org/abs/2402.15638. Deviation: the sum scale.
    """

    alpha: float = 1.0
    scale: str = "sum"
    needs: ClassVar[frozenset[str]] = frozenset({"gramian"})

    def __post_init__(self) -> None:
        check_number(self, "alpha")
        check_scale(self, self.scale)

    def weigh(self, seen: Seen, state: State) -> tuple[Tensor, State]:
        """See :class:`Weighting`."""
        return combined(self, seen, self._weights), state

    def _weights(self, here: Geometry) -> Array:
        if self.alpha == 0:
            return np.ones(len(here.norms))
        weights = fair_weights(here.cosines, here.norms, self.alpha)
        return weights if self.scale == "paper" else as_long_as_the_sum(weights, here.cosines, here.norms)
