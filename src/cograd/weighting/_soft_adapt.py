"""SoftAdapt: more weight to the losses that rise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from cograd.errors import WeightingError, shown
from cograd.weighting._contract import (
    Seen,
    State,
    Weighting,
    check_choice,
    constant,
    is_number,
    observed,
    recalled,
    softmax,
    spread,
    stored,
    total,
)


@final
@dataclass(frozen=True, slots=True)
class SoftAdapt(Weighting):
    r"""A softmax of the slopes: :math:`w = K\,\mathrm{softmax}(\beta s)`, with :math:`s_i = L_i(t) - L_i(t-1)`.

    The slope is that between the present batch and the one before in which the loss was present; it
    is 0 for a loss that is new, so all weights are one in the first step. K counts the present losses.

    Slopes have the unit of their loss: where units differ, the largest loss decides. ``slopes =
    "normalised"`` divides them by the sum of their magnitudes, which makes :math:`\beta` a pure number
    but leaves their relation. Two batches also differ by chance, and the rule follows that.

    Args:
        beta: a finite number. Above 0 the losses that fall least weigh most; below 0 those that fall
            most; 0 gives equal weights. In units of one over the loss unless slopes are normalised.
        slopes: ``"plain"`` or ``"normalised"``.
        scale: ``"sum"``: the weights add up to K; ``"paper"``: to 1.

    State:
        ``last``: name -> the value before.

    >>> rule, state = SoftAdapt(beta=1.0), {}
    >>> for losses in [[1.0, 1.0], [0.5, 1.0]]:
    ...     weights, state = rule.weigh(Seen(("a", "b"), torch.tensor(losses), (True, True)), state)
    >>> weights
    tensor([0.7551, 1.2449])

    References:
        Heydari, Thompson, Mehmood, SoftAdapt: Techniques for Adaptive Loss Weighting of Neural
        Networks with Multi-Part Loss Functions, 2019, https://arxiv.org/abs/1912.12355. Softmax, sign
        and default of beta as in ``softadapt/algorithms`` of dr-aheydari/SoftAdapt, with slopes of
        accuracy order one. Deviations: the factor K; normalised slopes keep their sign (the authors'
        first code divides by the sum of magnitudes, their package by the signed sum, which turns all
        signs around when the losses fall); no loss-weighted variant.
    """

    beta: float = 0.1
    slopes: str = "plain"
    scale: str = "sum"
    remembers: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not is_number(self.beta) or not math.isfinite(self.beta):
            raise WeightingError(f"SoftAdapt: beta must be a finite number; found {shown(self.beta)}.")
        check_choice(self, "slopes", ("plain", "normalised"))
        check_choice(self, "scale", ("sum", "paper"))

    def weigh(self, seen: Seen, state: State) -> tuple[Tensor, State]:
        """See :class:`Weighting`."""
        names, losses = observed(seen)
        last = state.get("last", {})
        fresh = constant([name not in last for name in names], losses) > 0
        slopes = torch.where(fresh, 0.0, losses - recalled(last, names, losses))
        if self.slopes == "normalised":
            size = total(slopes.abs())
            slopes = torch.where(size > 0, slopes / size, 0.0)
        weights = softmax(self.beta * slopes)
        return spread(weights * len(names) if self.scale == "sum" else weights, seen), {
            "last": stored(last, names, losses.unbind())
        }
