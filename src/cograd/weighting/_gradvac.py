"""GradVac: each pair of gradients brought to the cosine that it usually has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
from torch import Tensor

from cograd.weighting._contract import Seen, State, Weighting, check_number, check_seed, seeded
from cograd.weighting._gramian import Array, Geometry, combined
from cograd.weighting._pcgrad import orders
from cograd.weighting._solvers._matrix import FLAT

HIGHEST = 1 - 1e-6  # a cosine of 1 is out of reach: its correction would be infinite
PARALLEL = 1e-10  # a squared sine that is rounding: its root would be far more


@final
@dataclass(frozen=True, slots=True)
class GradVac(Weighting):
    r"""Raise each pair's cosine :math:`\phi` to its running mean :math:`\hat\phi`, then sum.

    For each loss i the others j come in a random order; where
    :math:`\phi_{ij} < \hat\phi_{ij}`, with :math:`g_i` what it has become and :math:`g_j` the original,

    .. math:: g_i \leftarrow g_i + \frac{\|g_i\| (\hat\phi \sqrt{1 - \phi^2} - \phi \sqrt{1 - \hat\phi^2})}
        {\|g_j\| \sqrt{1 - \hat\phi^2}} g_j, \qquad \hat\phi \leftarrow (1 - \beta) \hat\phi + \beta \phi.

    The means start at 0, so the first step is that of :class:`PCGrad`. Without conflict, and at its
    usual cosines, it is the plain sum. Scaling all gradients changes nothing; scaling one scales its
    own part alone. A pair is updated only when both losses have a gradient.

    Opposite gradients cancel at first. A goal counts as at most 1 - 1e-6, since a cosine of 1 is out
    of reach. A loss without a gradient is left out with weight 1.

    Args:
        beta: share of the present in the mean, in [0, 1).
        seed: of the orders; drawn from torch's generator if None.

    State:
        ``seed``, and ``draws``: how many orders were drawn; ``cosine``: name -> name -> mean.

    >>> GradVac()(gramian=torch.tensor([[18.0, -22.0], [-22.0, 38.0]]))
    tensor([2.2222, 1.5789], dtype=torch.float64)

    References:
        Z. Wang et al., *Gradient Vaccine: Investigating and Improving Multi-task Optimization in
        Massively Multilingual Models*, ICLR 2021, Algorithm 1, https://arxiv.org/abs/2010.05874.
        Formula checked against LibMTL and TorchJD. As in the paper and TorchJD each pair updates its
        mean, corrected or not; some versions of LibMTL update only corrected ones.
    """

    beta: float = 0.01
    seed: int | None = None
    needs: ClassVar[frozenset[str]] = frozenset({"gramian"})
    remembers: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_number(self, "beta", below=1)
        check_seed(self)

    def init(self, names: Sequence[str]) -> State:
        """See :class:`Weighting`."""
        return seeded(self.seed)

    def weigh(self, seen: Seen, state: State) -> tuple[Tensor, State]:
        """See :class:`Weighting`."""
        after = dict(state)

        def weights(here: Geometry) -> Array:
            known = state.get("cosine", {})
            goal = np.array([[known.get(a, {}).get(b, 0.0) for b in here.names] for a in here.names])
            order, later = orders(len(here.norms), state)
            left, goal = vaccinated(here.cosines, order, goal, self.beta)
            pairs = {
                a: known.get(a, {}) | {b: v for b, v in zip(here.names, row, strict=True) if b != a}
                for a, row in zip(here.names, goal.tolist(), strict=True)
            }
            after.update(later, cosine=known | pairs)
            return here.norms @ left / here.norms

        return combined(self, seen, weights, drawn=True), after


def vaccinated(cosines: Array, order: np.ndarray, goal: Array, beta: float) -> tuple[Array, Array]:
    """The coefficients ``[n, n]`` of the unit gradients in each changed one; and the new means."""
    rows = np.arange(len(cosines))
    left, products, goal = np.eye(len(cosines)), cosines.copy(), goal.copy()
    for j in order.T:
        squares = np.einsum("ij,ij->i", left, products)
        exists = squares > FLAT * np.einsum("ij,ij->i", left, left)  # else it cancelled: it has no cosine
        size = np.sqrt(np.where(exists, squares, 1.0))
        now = (products[rows, j] / size).clip(-1, 1)
        sine = 1 - now**2
        sine = np.sqrt(np.where(sine > PARALLEL, sine, 0.0))
        aim = goal[rows, j].clip(-HIGHEST, HIGHEST)
        missing = size * (aim * sine / np.sqrt(1 - aim**2) - now)
        added = np.where(exists & (now < aim), missing, 0.0)
        left[rows, j] += added
        products += added[:, None] * cosines[j]
        goal[rows, j] = np.where(exists, (1 - beta) * goal[rows, j] + beta * now, goal[rows, j])
    return left, goal
