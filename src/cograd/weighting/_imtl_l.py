"""IMTLL: each loss multiplied by a learned scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from cograd.weighting._contract import (
    Seen,
    State,
    Weighting,
    check_number,
    observed,
    recalled,
    spread,
    stored,
    towards,
)


@final
@dataclass(frozen=True, slots=True)
class IMTLL(Weighting):
    r"""Learn a scale for each loss: the objective is :math:`\sum_i e^{s_i} L_i - s_i`, so :math:`w_i = e^{s_i}`.

    Each s starts at 0 and follows the gradient of its own term, which needs no backward pass:
    :math:`s \leftarrow s - lr\,(e^s L - 1)`. The weights of a step use s before it. Once s has settled,
    w is about :math:`1 / L`, so each loss contributes about 1 to the total. This is the formula's own
    scale. It is twice :class:`Uncertainty` for regression, with s of the other sign.

    A step does not pass the s that is best for the present batch, so a loss of :math:`10^6` moves s
    to :math:`-\log 10^6` at most. A negative loss has no best s: its weight is NaN, which the finite
    check of a step reports before any parameter moves.

    Args:
        lr: the learning rate of s, at least 0. That of the model is usually too small for it.
        floor: the smallest loss (in units of the loss) that s adapts to.

    State:
        ``s``: name -> log scale.

    >>> rule = IMTLL(lr=0.1)
    >>> seen = Seen(("depth",), torch.tensor([3.0]), (True,))
    >>> weights, state = rule.weigh(seen, rule.init(()))
    >>> weights, state["s"]["depth"]
    (tensor([1.]), tensor(-0.2000))

    References:
        Liu et al., Towards Impartial Multi-task Learning, ICLR 2021, Eq. 6,
        https://openreview.net/forum?id=IMPnRXEWpvr. Value and gradients agree with ``IMTLL`` of
        TorchJD 0.18. Deviations: plain gradient descent on s, stopped at the best s of the batch.
    """

    lr: float = 0.025
    floor: float = 1e-12
    remembers: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_number(self, "lr")
        check_number(self, "floor", positive=True)

    def objection(self, loss: float) -> str:
        """See :class:`Weighting`."""
        return "" if loss >= 0 else "needs losses that are not negative"

    def weigh(self, seen: Seen, state: State) -> tuple[Tensor, State]:
        """See :class:`Weighting`."""
        names, losses = observed(seen)
        known = state.get("s", {})
        s = recalled(known, names, losses)
        size = losses.clamp_min(self.floor)
        new = towards(s, -self.lr * (s.exp() * size - 1), -size.log())
        return spread(torch.where(losses < 0, torch.nan, s.exp()), seen), {"s": stored(known, names, new.unbind())}
