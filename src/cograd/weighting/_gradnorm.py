"""GradNorm: gradient norms steered towards a common size and pace."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
import torch
from torch import Tensor

from cograd.errors import WeightingError, shown
from cograd.weighting._contract import Seen, State, Weighting, check_number, observed, spread, stored
from cograd.weighting._gramian import Array, check_scale, gramian_of

LEVEL = 1e-7  # of the mean norm: losses in float32 cannot tell less, and its sign would be that of rounding


@final
@dataclass(frozen=True, slots=True)
class GradNorm(Weighting):
    r"""Learn weights whose gradient norms follow how far each loss has come.

    With :math:`n_i = w_i \|g_i\|` and :math:`r_i` the ratio :math:`L_i / L_i(0)` over its mean, one
    step of descent on :math:`\sum_i |n_i - \bar n\, r_i^\alpha|`, the goal held constant. The step
    is taken in :math:`\log w_i`, relative to the mean norm:
    :math:`\log w_i \leftarrow \log w_i - \eta\, (n_i / \bar n) \operatorname{sign}(n_i - \bar n\, r_i^\alpha)`,
    so that no scale of the losses matters and weights stay positive. They are then scaled to sum to
    the number of losses.

    A batch is weighted by what was learnt before it, so the first has ones. Balanced losses keep
    ones. A loss without a gradient has norm 0 and keeps its weight up to the scaling; a first value
    of 0 counts as no progress.

    Args:
        alpha: how strongly slower losses are pushed, >= 0.
        lr: the learning rate of the weights, >= 0.
        every: steps from one update to the next, >= 1.
        scale: ``"paper"`` descends in w itself:
            :math:`w_i \leftarrow w_i - \eta\, \|g_i\| \operatorname{sign}(\cdot)`. That step is in units of the
            gradients, and swings for ever once they are long against :math:`1 / \eta`; there a weight
            falls at most to a tenth in a step.

    State:
        ``weights``, ``first``: name -> weight, and magnitude of the first value.

    >>> rule = GradNorm(lr=0.025)
    >>> rule(torch.tensor([1.0, 3.5]), gramian=torch.tensor([[18.0, -22.0], [-22.0, 38.0]]))
    tensor([1., 1.], dtype=torch.float64)

    References:
        Z. Chen et al., *GradNorm: Gradient Normalization for Adaptive Loss Balancing in Deep
        Multitask Networks*, ICML 2018, Eq. 1-2 and Algorithm 1, https://arxiv.org/abs/1711.02257.
        Deviations: norms over all shared parameters, not the last shared layer; plain descent, and
        in log w unless ``scale="paper"``.
    """

    alpha: float = 1.5
    lr: float = 0.025
    every: int = 1
    scale: str = "sum"
    needs: ClassVar[frozenset[str]] = frozenset({"losses", "gramian"})
    remembers: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_number(self, "alpha")
        check_number(self, "lr")
        check_scale(self, self.scale)
        if not isinstance(self.every, int) or isinstance(self.every, bool) or self.every < 1:
            raise WeightingError(f"GradNorm: every must be an integer >= 1; found {shown(self.every)}.")

    def weigh(self, seen: Seen, state: State) -> tuple[Tensor, State]:
        """See :class:`Weighting`."""
        names, matrix = gramian_of(self, seen)
        values = observed(seen)[1].abs().to("cpu", torch.float64).numpy()
        known, before = state.get("weights", {}), state.get("first", {})
        first = np.array([before.get(name) or value for name, value in zip(names, values.tolist(), strict=True)])
        weights = np.array([known.get(name, 1.0) for name in names])
        weights *= len(names) / weights.sum()
        after = self._learnt(weights, np.sqrt(matrix.diagonal()), values, first) if self._now(seen) else weights
        return spread(torch.from_numpy(weights), seen), {
            "weights": stored(known, names, after.tolist()),
            "first": stored(before, names, first.tolist()),
        }

    def _now(self, seen: Seen) -> bool:
        return seen.step % self.every == 0

    def _learnt(self, weights: Array, lengths: Array, values: Array, first: Array) -> Array:
        norms = weights * lengths
        ratio = np.divide(values, first, out=np.ones(len(values)), where=first > 0)
        pace = ratio / ratio.mean() if ratio.any() else np.ones(len(values))
        ahead = norms - norms.mean() * pace**self.alpha
        side = np.where(np.abs(ahead) > LEVEL * norms.mean(), np.sign(ahead), 0.0)
        if self.scale == "paper":
            moved = np.maximum(weights - self.lr * lengths * side, weights / 10)
        else:
            moved = weights * np.exp(-self.lr * norms / (norms.mean() or 1.0) * side)
        scaled: Array = moved * (len(moved) / moved.sum())
        return scaled
