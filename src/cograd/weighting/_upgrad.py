"""UPGrad: each gradient projected onto the dual cone of all, then summed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
from torch import Tensor

from cograd.weighting._contract import Seen, State, Weighting
from cograd.weighting._gramian import Array, Geometry, check_preference, check_scale, combined, preferred
from cograd.weighting._solvers._cone import onto_dual_cone


@final
@dataclass(frozen=True, slots=True)
class UPGrad(Weighting):
    r"""Each gradient projected onto the dual cone, then summed: :math:`\sum_i p_i\, \pi(g_i)`.

    :math:`\pi` takes a vector to the nearest one that has no negative product with any gradient, so
    that no loss increases along the result to first order, at any scale of the gradients. Without
    conflict it is the weighted sum. Scaling all gradients changes nothing;
    scaling one gradient scales its own part alone, since the cone stays the same.

    A part that is zero up to rounding is dropped: where no direction but zero is safe, all
    weights are zero and the shared parameters stand still.
    A loss without a gradient is left out with weight 1.

    Args:
        preference: loss name -> weight :math:`p_i` >= 0; 1 for a loss without an entry.
        scale: ``"sum"`` is the formula above; ``"paper"`` divides by the number of losses.

    >>> UPGrad()(gramian=torch.tensor([[18.0, -22.0], [-22.0, 38.0]]))
    tensor([2.2222, 1.5789], dtype=torch.float64)

    References:
        P. Quinton, V. Rey, *Jacobian Descent for Multi-Objective Optimization*, 2024,
        https://arxiv.org/abs/2406.16232. Deviation: the projections are exact, on the cosines, where
        TorchJD adds a share of the trace of G and conflicts once the norms differ by 30.
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
        parts = onto_dual_cone(here.cosines, np.eye(len(here.norms)))
        shares = preferred(self.preference, here.names, self.scale)
        weights: Array = (shares * here.norms) @ parts / here.norms
        return weights
