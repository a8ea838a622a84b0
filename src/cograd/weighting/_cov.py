"""CoV: more weight to the losses that vary most for their size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from cograd.weighting._contract import (
    Seen,
    State,
    Weighting,
    check_choice,
    constant,
    observed,
    ratio,
    recalled,
    spread,
    stored,
    total,
)


@final
@dataclass(frozen=True, slots=True)
class CoV(Weighting):
    r"""Weights in proportion to the coefficient of variation: :math:`w_i \propto \sigma_i / \mu_i`.

    :math:`\sigma_i` and :math:`\mu_i` are the standard deviation and the mean, over all batches before
    this one, of the loss ratio :math:`\ell_i(t) = L_i(t) / \bar L_i(t-1)`, where :math:`\bar L_i` is the
    mean of all values before. The unit of a loss cancels. The weights of the K present losses add up
    to K.

    A loss seen fewer than twice has no deviation: its weight is 1, and so are all weights in the first
    two steps. A constant loss has the deviation :math:`10^{-4}`: next to one that varies it hardly
    counts, next to other constant ones it weighs the same. Where the mean before is not positive the
    ratio is 1.

    Args:
        scale: ``"sum"``: the weights add up to K; ``"paper"``: to 1.

    State:
        ``count``: name -> batches in which it was present; ``mean``: name -> mean value; ``centre``,
        ``squares``: name -> mean of the ratios, and the sum of their squared deviations.

    >>> rule, state = CoV(), {}
    >>> for losses in [[1.0, 1.0], [1.2, 1.1], [1.0, 1.0]]:
    ...     weights, state = rule.weigh(Seen(("a", "b"), torch.tensor(losses), (True, True)), state)
    >>> weights
    tensor([1.3125, 0.6875])

    References:
        Groenendijk et al., Multi-Loss Weighting with Coefficient of Variations, WACV 2021,
        https://arxiv.org/abs/2009.01717. Weights agree with ``losses/covweighting_loss.py`` of
        rickgroen/cov-weighting with its full mean, including the 1e-8 added to the variance.
        Deviations: the factor K; losses may be absent.
    """

    scale: str = "sum"
    remembers: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_choice(self, "scale", ("sum", "paper"))

    def weigh(self, seen: Seen, state: State) -> tuple[Tensor, State]:
        """See :class:`Weighting`."""
        names, losses = observed(seen)
        counts, means, centres, squares = (state.get(key, {}) for key in ("count", "mean", "centre", "squares"))
        past = [counts.get(name, 0) for name in names]
        seen_before = constant(past, losses)
        mean, centre, sums = (recalled(known, names, losses) for known in (means, centres, squares))

        settled = constant([n >= 2 for n in past], losses) > 0
        deviation = (sums / seen_before.clamp_min(1) + 1e-8).sqrt()
        variation = torch.where(settled, deviation / centre.abs().clamp_min(1e-8), 0.0)
        share = sum(n >= 2 for n in past) / total(variation).clamp_min(1e-30)
        weights = torch.where(settled, variation * share, 1.0)

        value = ratio(losses, mean)
        fresh = 1 / (seen_before + 1)
        moved = centre + fresh * (value - centre)
        return spread(weights if self.scale == "sum" else weights / len(names), seen), {
            "count": stored(counts, names, [n + 1 for n in past]),
            "mean": stored(means, names, (mean + fresh * (losses - mean)).unbind()),
            "centre": stored(centres, names, moved.unbind()),
            "squares": stored(squares, names, (sums + (value - centre) * (value - moved)).unbind()),
        }
