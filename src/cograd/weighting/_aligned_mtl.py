"""AlignedMTL: gradients made orthogonal and equally long, with the least change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
from torch import Tensor

from cograd.errors import WeightingError, shown
from cograd.weighting._contract import Seen, State, Weighting
from cograd.weighting._gramian import Array, Geometry, combined


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
        relative = here.norms / here.norms.max()
        lengths, vectors = _axes(here.cosines, relative)
        chosen = {
            "min": lengths[0],
            "median": lengths[(len(lengths) - 1) // 2],
            "rmse": np.sqrt(np.square(lengths).mean()),
        }[self.scale_mode]
        weights: Array = vectors @ (vectors.sum(axis=0) * (chosen / lengths))
        return weights


def _axes(cosines: Array, norms: Array) -> tuple[Array, Array]:
    """The principal lengths of the gradients, ascending and above rounding, and the axes among the losses.

    By the singular values of a Cholesky factor, which keep the short ones exact where the
    eigenvalues of the Gramian would lose them; by those eigenvalues if there is no factor.
    """
    rounding = 8 * len(norms) * np.finfo(np.float64).eps
    try:
        factor = np.linalg.cholesky(cosines)
    except np.linalg.LinAlgError:
        pass
    else:
        if factor.diagonal().min() ** 2 > rounding:  # else the gradients are dependent
            vectors, lengths, _ = np.linalg.svd(norms[:, None] * factor)
            return lengths[::-1], vectors[:, ::-1]
    values, vectors = np.linalg.eigh(cosines * norms * norms[:, None])
    kept = values > rounding * values[-1]
    return np.sqrt(values[kept]), vectors[:, kept]
