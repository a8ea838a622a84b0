"""RunningMean: each loss relative to its recent size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from cograd.weighting._contract import (
    Seen,
    State,
    Weighting,
    check_number,
    constant,
    observed,
    recalled,
    spread,
    stored,
)


@final
@dataclass(frozen=True, slots=True)
class RunningMean(Weighting):
    r"""Divide each loss by a running mean of its magnitude: :math:`w_i = 1 / m_i`.

    :math:`m_i` is the exponential moving average of :math:`|L_i|`, this batch included, corrected
    for its start as in Adam. Every loss contributes about 1 to the total, always, so a loss that
    has almost reached zero keeps pulling as hard as one that has not.

    Args:
        beta: share of the past that is kept at each step, in [0, 1).
        floor: the smallest mean (in units of the loss) that is divided by.

    State:
        ``mean``: name -> uncorrected average; ``count``: name -> batches in which it was present.

    >>> RunningMean()(torch.tensor([200.0, 0.5]))
    tensor([0.0050, 2.0000])
    """

    beta: float = 0.99
    floor: float = 1e-12
    remembers: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_number(self, "beta", below=1)
        check_number(self, "floor")

    def weigh(self, seen: Seen, state: State) -> tuple[Tensor, State]:
        """See :class:`Weighting`."""
        names, losses = observed(seen)
        means, counts = state.get("mean", {}), state.get("count", {})
        count = [counts.get(name, 0) + 1 for name in names]
        mean = self.beta * recalled(means, names, losses) + (1 - self.beta) * losses.abs()
        weights = 1.0 / (mean / constant([1 - self.beta**n for n in count], losses)).clamp_min(self.floor)
        return spread(weights, seen), {
            "mean": stored(means, names, mean.unbind()),
            "count": stored(counts, names, count),
        }
