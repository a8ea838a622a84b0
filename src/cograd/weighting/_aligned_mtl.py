"""AlignedMTL: gradients made orthogonal and equally long, with the least change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
from torch import Tensor

from cograd.errors import WeightingError, shown
from cograd.weighting._contract import Seen, State, Weighting
from cograd.weighting._gramian import Array, Geometry, combined
from cograd.weighting._solvers._axes import principal
from cograd.weighting._solvers._matrix import FLAT, within_range


@final
@dataclass(frozen=True, slots=True)
class AlignedMTL(Weighting):
    r"""The sum of the gradients once aligned: :math:`w = \sqrt\lambda\, V \Lambda^{-1/2} V^T 1`.

    :math:`G = V \Lambda V^T`, over the eigenvalues above rounding; :math:`\lambda` is one of them or
    their mean. The aligned gradients are orthogonal and of length :math:`\sqrt\lambda`, the nearest
    such system to the given one. Balanced losses get ones. Scaling all gradients changes nothing;
    scaling one changes all weights, and with ``"min"`` the direction is no longer than
    :math:`\sqrt K` times the shortest gradient.

    Components without extent are dropped, so equal gradients share alike, and opposite ones of
    equal length get zeros. A loss without a gradient is left out with weight 1.

    Args:
        scale_mode: which :math:`\lambda`: the ``"min"``, the ``"median"`` (the lower of two), or
            ``"rmse"``, the mean eigenvalue.

    >>> AlignedMTL()(gramian=torch.tensor([[18.0, -22.0], [-22.0, 38.0]]))
    tensor([1.1181, 0.8165], dtype=torch.float64)

    References:
        D. Senushkin et al., *Independent Component Alignment for Multi-Task Learning*, CVPR 2023,
        https://arxiv.org/abs/2305.19000. Sum form, as in the authors' code (SamsungLabs/MTL).
    """

    scale_mode: str = "min"
    needs: ClassVar[frozenset[str]] = frozenset({"gramian"})

    def __post_init__(self) -> None:
        if not isinstance(self.scale_mode, str) or self.scale_mode not in ("min", "median", "rmse"):
            raise WeightingError(
                f"AlignedMTL: scale_mode must be 'min', 'median' or 'rmse'; found {shown(self.scale_mode)}."
            )

    def weigh(self, seen: Seen, state: State) -> tuple[Tensor, State]:
        """See :class:`Weighting`."""
        return combined(self, seen, self._weights), state

    def _weights(self, here: Geometry) -> Array:
        norms = within_range(here.norms)
        axes, lengths = principal(_coordinates(here.cosines, norms / norms.max()))
        chosen = {
            "min": lengths.min(),
            "median": np.sort(lengths)[(len(lengths) - 1) // 2],
            "rmse": np.sqrt(np.square(lengths).mean()),
        }[self.scale_mode]
        along = axes.sum(axis=0)
        along[np.abs(along) <= 1e-12] = 0  # it cancelled
        weights: Array = axes @ (along * (chosen / lengths)) * (norms / here.norms)
        return weights


def _coordinates(cosines: Array, norms: Array) -> Array:
    """The gradients ``[n, r]`` in coordinates of their own, r their rank.

    A Cholesky factor that goes on with the longest remainder, which keeps short gradients exact beside
    long ones. A remainder that is rounding beside its own gradient is none.
    """
    gramian = cosines * norms * norms[:, None]
    left, found = gramian.diagonal().copy(), np.zeros((len(norms), 0))
    for _ in norms:
        left[left <= FLAT * norms**2] = 0
        if not left.any():
            break
        k = int(left.argmax())
        column = np.where(left > 0, gramian[k] - found @ found[k], 0.0) / np.sqrt(left[k])
        found = np.column_stack([found, column])
        left -= column**2
        left[k] = 0
    return found
