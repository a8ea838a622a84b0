"""NashMTL: the bargain that no loss would trade for another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from cograd.weighting._contract import Seen, State, Weighting
from cograd.weighting._gramian import Array, Geometry, check_scale, combined
from cograd.weighting._solvers._fair import as_long_as_the_sum, fair_weights


@final
@dataclass(frozen=True, slots=True)
class NashMTL(Weighting):
    r"""The Nash bargaining solution: the positive w with :math:`(G w)_i = 1 / w_i` for each loss.

    Every loss gains the same relative to the length of its gradient times its weight, so the result
    does not depend on the scale of a single loss: scaling ``g_i`` divides ``w_i``. Solved by a
    damped Newton method on a convex function.

    Where no direction improves every loss (opposite gradients, for instance: zero lies in their
    hull, to within 1e-4 of their lengths) the bargain fails, and the paper's disagreement point is
    the answer: all weights are zero, and the shared parameters stand still. A plain sum that is
    zero is such a place. A loss without a gradient is left out with weight 1.

    Args:
        scale: ``"sum"`` makes the direction as long as the sum of the gradients, so that balanced
            losses get ones; ``"paper"`` gives w itself, whose direction has length
            :math:`\sqrt K` whatever the gradients.

    >>> NashMTL(scale="paper")(gramian=torch.tensor([[18.0, -22.0], [-22.0, 38.0]]))
    tensor([0.5915, 0.4071], dtype=torch.float64)

    References:
        A. Navon et al., *Multi-Task Learning as a Bargaining Game*, ICML 2022,
        https://arxiv.org/abs/2202.01017. Deviations: an exact solver in place of a sequence of
        convex programs, nothing remembered between steps, and no clipping to length 1. On the toy of
        the authors' code (AvivNavon/nash-mtl) its weights miss the equations by 1e-8 to 1e-4, and by more
        where gradients are nearly opposite, also if its stopping rule is made a million times stricter:
        its solver is that far from exact. With the exact solution in its place, ten steps of SGD from
        each of its starts are those of this rule, to the rounding of float32.
    """

    scale: str = "sum"
    needs: ClassVar[frozenset[str]] = frozenset({"gramian"})

    def __post_init__(self) -> None:
        check_scale(self, self.scale)

    def weigh(self, seen: Seen, state: State) -> tuple[Tensor, State]:
        """See :class:`Weighting`."""
        return combined(self, seen, self._weights), state

    def _weights(self, here: Geometry) -> Array:
        weights = fair_weights(here.cosines, here.norms, 1.0)
        return weights if self.scale == "paper" else as_long_as_the_sum(weights, here.cosines, here.norms)
