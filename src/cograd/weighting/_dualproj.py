"""DualProj: the sum of the gradients, projected onto their dual cone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from cograd.weighting._contract import Seen, State, Weighting
from cograd.weighting._gramian import Array, Geometry, check_preference, check_scale, combined, preferred
from cograd.weighting._solvers._cone import onto_dual_cone


@final
@dataclass(frozen=True, slots=True)
class DualProj(Weighting):
    r"""The sum of the gradients projected onto the dual cone: :math:`\pi(\sum_i p_i\, g_i)`.

    :math:`\pi` takes a vector to the nearest one that has no negative product with any gradient, so
    that no loss increases along the result to first order, at any scale of the gradients. Without
    conflict it is the weighted sum. Scaling all gradients changes nothing;
    scaling one moves the sum that is projected.

    A projection that is zero up to rounding is exactly zero: all weights are zero and the shared
    parameters stand still.
    A loss without a gradient is left out with weight 1.

    Args:
        preference: loss name -> weight :math:`p_i` >= 0; 1 for a loss without an entry.
        scale: ``"sum"`` is the formula above; ``"paper"`` divides by the number of losses.

    >>> DualProj()(gramian=torch.tensor([[18.0, -22.0], [-22.0, 38.0]]))
    tensor([1.2222, 1.0000], dtype=torch.float64)

    References:
        D. Lopez-Paz, M. Ranzato, *Gradient Episodic Memory for Continual Learning*, NeurIPS 2017,
        Eq. 11, https://arxiv.org/abs/1706.08840. P. Quinton, V. Rey, *Jacobian Descent for
        Multi-Objective Optimization*, 2024, https://arxiv.org/abs/2406.16232. Deviation: exact
        projections, on the cosines, where TorchJD adds a share of the trace of G.
    """

    preference: Mapping[str, float] | None = None
    scale: str = "sum"
    needs: ClassVar[frozenset[str]] = frozenset({"gramian"})

    def __post_init__(self) -> None:
        check_preference(self, self.preference)
        check_scale(self, self.scale)

    @property
    def mentions(self) -> Iterable[str]:
        """See :class:`Weighting`."""
        return self.preference or ()

    def weigh(self, seen: Seen, state: State) -> tuple[Tensor, State]:
        """See :class:`Weighting`."""
        return combined(self, seen, self._weights), state

    def _weights(self, here: Geometry) -> Array:
        shares = preferred(self.preference, here.names, self.scale)
        weights: Array = onto_dual_cone(here.cosines, (shares * here.norms)[None])[0] / here.norms
        return weights
