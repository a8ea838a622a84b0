"""MGDA: the shortest vector in the convex hull of the gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from cograd.weighting._contract import Seen, State, Weighting
from cograd.weighting._gramian import Array, Geometry, check_scale, combined
from cograd.weighting._solvers._hull import lowest_in_hull


@final
@dataclass(frozen=True, slots=True)
class MGDA(Weighting):
    r"""The shortest vector in the convex hull: :math:`\min_w \|J^T w\|^2,\ w \ge 0,\ \sum_i w_i = 1`.

    No loss increases along it to first order, and it is zero exactly where no direction improves all
    losses. Exact, and of several such w the shortest. Scaling all gradients changes nothing; scaling
    one does: the shortest gradients get most of the weight.

    A loss without a gradient is left out and gets weight 1, which changes nothing (the literal
    hull would hold zero and stop everything). Opposite gradients get weights that cancel.

    Args:
        scale: ``"sum"`` multiplies by the number of losses, so that balanced losses get ones;
            ``"paper"`` gives weights that sum to 1.

    >>> MGDA(scale="paper")(gramian=torch.tensor([[18.0, -22.0], [-22.0, 38.0]]))
    tensor([0.6000, 0.4000], dtype=torch.float64)

    References:
        J.-A. Désidéri, *Multiple-gradient descent algorithm*, C. R. Acad. Sci. Paris, 2012,
        https://doi.org/10.1016/j.crma.2012.03.014. O. Sener, V. Koltun, *Multi-Task Learning as
        Multi-Objective Optimization*, NeurIPS 2018, https://arxiv.org/abs/1810.04650. Deviation: an
        exact method in place of Frank-Wolfe, and no clipping of the two-loss solution.
    """

    scale: str = "sum"
    needs: ClassVar[frozenset[str]] = frozenset({"gramian"})

    def __post_init__(self) -> None:
        check_scale(self, self.scale)

    def weigh(self, seen: Seen, state: State) -> tuple[Tensor, State]:
        """See :class:`Weighting`."""
        return combined(self, seen, self._weights), state

    def _weights(self, here: Geometry) -> Array:
        weights: Array = lowest_in_hull(here.cosines, here.norms) * (here.norms.min() / here.norms)
        return weights * len(weights) if self.scale == "sum" else weights
