"""CAGrad: near the mean gradient, the best for the worst-off loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
from torch import Tensor

from cograd.weighting._contract import Seen, State, Weighting, check_number
from cograd.weighting._gramian import Array, Geometry, check_scale, combined
from cograd.weighting._solvers._hull import compromise
from cograd.weighting._solvers._matrix import length, vanishes


@final
@dataclass(frozen=True, slots=True)
class CAGrad(Weighting):
    r"""The best direction for the worst-off loss within a ball around the mean gradient.

    With :math:`g_0` the mean and :math:`g_w = J^T w`, the direction is
    :math:`g_0 + c \|g_0\| g_w / \|g_w\|` where w, on the simplex, minimises
    :math:`g_w^T g_0 + c \|g_0\| \|g_w\|`. Solved exactly. Scaling all gradients changes nothing;
    scaling one moves the mean, and so the direction.

    This is the paper's form, without the division by :math:`1 + c` or :math:`1 + c^2` that other
    codes apply: balanced losses get :math:`1 + c` each. A loss alone keeps weight 1, and a loss
    without a gradient is left out with weight 1. If the gradients cancel in the mean, so does the
    direction. If :math:`g_w` vanishes, every direction of the ball that harms no loss is optimal,
    and the nearest to the mean is taken: its projection onto the dual cone.

    Args:
        c: the radius of the ball relative to the mean gradient, >= 0. 0 is the plain sum; the paper
            assumes c < 1, where the mean loss still converges.
        scale: ``"sum"`` multiplies by the number of losses; ``"paper"`` is the formula as it is.

    >>> CAGrad(c=0.5, scale="paper")(gramian=torch.tensor([[18.0, -22.0], [-22.0, 38.0]]))
    tensor([0.7041, 0.5000], dtype=torch.float64)

    References:
        B. Liu, X. Liu, X. Jin, P. Stone, Q. Liu, *Conflict-Averse Gradient Descent for Multi-task
        Learning*, NeurIPS 2021, Eq. 3 and Algorithm 1, https://arxiv.org/abs/2110.14048.
    """

    c: float = 0.5
    scale: str = "sum"
    needs: ClassVar[frozenset[str]] = frozenset({"gramian"})

    def __post_init__(self) -> None:
        check_number(self, "c")
        check_scale(self, self.scale)

    def weigh(self, seen: Seen, state: State) -> tuple[Tensor, State]:
        """See :class:`Weighting`."""
        return combined(self, seen, self._weights), state

    def _weights(self, here: Geometry) -> Array:
        losses = len(here.norms)
        if losses == 1 and self.scale == "sum":
            return np.ones(1)
        mean = here.norms / losses
        size = length(here.cosines, mean)
        if self.c and not vanishes(here.cosines, mean):
            mean = compromise(here.cosines, here.norms, mean / size, self.c) * size
        weights: Array = mean / here.norms
        return weights * losses if self.scale == "sum" else weights
