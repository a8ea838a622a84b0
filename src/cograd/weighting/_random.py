"""Random: new weights each time, by chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from cograd.weighting._contract import (
    Seen,
    State,
    Weighting,
    check_choice,
    check_seed,
    drawn,
    observed,
    seeded,
    softmax,
    spread,
)


@final
@dataclass(frozen=True, slots=True)
class Random(Weighting):
    r"""Random loss weighting: :math:`w = K\,\mathrm{softmax}(z)`, with :math:`z_i` drawn from N(0, 1) at each step.

    On average all losses weigh the same. It looks at nothing, so a rule that is meant to balance
    should do better than this one. K counts the present losses.

    Args:
        seed: the same seed gives the same weights; None takes one from torch's own generator.
        scale: ``"sum"``: the weights add up to K; ``"paper"``: to 1.

    State:
        ``seed``, ``draws``: where the next draw starts.

    >>> weights = Random(seed=0)(torch.tensor([200.0, 0.5]))
    >>> weights.sum()
    tensor(2.)

    References:
        Lin, Ye, Zhang, Tsang, Reasonable Effectiveness of Random Weighting: A Litmus Test for
        Multi-Task Learning, TMLR 2022, https://arxiv.org/abs/2111.10603. The normal distribution
        under a softmax is that of ``RLW`` in LibMTL. Deviation: the factor K.
    """

    seed: int | None = None
    scale: str = "sum"

    def __post_init__(self) -> None:
        check_seed(self)
        check_choice(self, "scale", ("sum", "paper"))

    def init(self, names: Sequence[str]) -> State:
        """See :class:`Weighting`."""
        return seeded(self.seed)

    def weigh(self, seen: Seen, state: State) -> tuple[Tensor, State]:
        """See :class:`Weighting`."""
        names, losses = observed(seen)
        generator, after = drawn(state)
        weights = softmax(torch.randn(len(names), generator=generator).to(losses, non_blocking=True))
        return spread(weights * len(names) if self.scale == "sum" else weights, seen), after
