"""PCGrad: each gradient loses what opposes the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cograd.weighting._contract import Seen, State, Weighting, check_seed, drawn, seeded
from cograd.weighting._gramian import Array, Geometry, combined


@final
@dataclass(frozen=True, slots=True)
class PCGrad(Weighting):
    r"""Each gradient loses its part against the others, then they are summed.

    .. math:: g_i \leftarrow g_i - \frac{g_i^T g_j}{\|g_j\|^2} g_j \quad\text{where } g_i^T g_j < 0

    For each loss i the others j come in a random order; :math:`g_i` is what is left of
    it while :math:`g_j` is the original. Without conflict it is the plain sum. Scaling all gradients
    changes nothing; scaling one scales its own part alone. For three losses or more the result may
    still conflict with some of them, and it depends on the draw; for two there is none.

    Opposite gradients cancel. A loss without a gradient is left out with weight 1.

    Args:
        seed: of the orders; drawn from torch's generator if None.

    State:
        ``seed``, and ``draws``: how many orders were drawn.

    >>> PCGrad()(gramian=torch.tensor([[18.0, -22.0], [-22.0, 38.0]]))
    tensor([2.2222, 1.5789], dtype=torch.float64)

    References:
        T. Yu et al., *Gradient Surgery for Multi-Task Learning*, NeurIPS 2020, Algorithm 1,
        https://arxiv.org/abs/2001.06782. The sum, as in the authors' code, not the mean.
    """

    seed: int | None = None
    needs: ClassVar[frozenset[str]] = frozenset({"gramian"})

    def __post_init__(self) -> None:
        check_seed(self)

    def init(self, names: Sequence[str]) -> State:
        """See :class:`Weighting`."""
        return seeded(self.seed)

    def weigh(self, seen: Seen, state: State) -> tuple[Tensor, State]:
        """See :class:`Weighting`."""
        after = dict(state)

        def weights(here: Geometry) -> Array:
            order, later = orders(len(here.norms), state)
            after.update(later)
            return here.norms @ without_conflict(here.cosines, order) / here.norms

        return combined(self, seen, weights, drawn=True), after


def orders(losses: int, state: State) -> tuple[NDArray[np.int64], dict[str, int]]:
    """For each of the losses an order [n - 1] of the others; and the state after the draw, if any."""
    if losses <= 2:
        return np.arange(losses)[::-1, None][:, : losses - 1], {}
    generator, later = drawn(state)
    keys = torch.rand(losses, losses, generator=generator, dtype=torch.float64).numpy()
    np.fill_diagonal(keys, 2.0)
    return keys.argsort(axis=1)[:, :-1], later


def without_conflict(cosines: Array, order: NDArray[np.int64]) -> Array:
    """``[n, n]``: row i holds the coefficients of the unit gradients in what is left of the i-th."""
    rows = np.arange(len(cosines))
    left, products = np.eye(len(cosines)), cosines.copy()
    for j, others in zip(order.T, cosines[order.T], strict=True):
        excess = np.maximum(-products[rows, j], 0.0)
        left[rows, j] = excess
        products += excess[:, None] * others
    return left
