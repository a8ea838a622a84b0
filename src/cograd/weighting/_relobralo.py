"""ReLoBRaLo: relative progress, with a look back at random."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from cograd.weighting._contract import (
    Seen,
    State,
    Weighting,
    check_number,
    check_seed,
    constant,
    drawn,
    observed,
    ratio,
    recalled,
    seeded,
    softmax,
    spread,
    stored,
    total,
)


@final
@dataclass(frozen=True, slots=True)
class ReLoBRaLo(Weighting):
    r"""Relative loss balancing with random lookback.

    .. math::
        \lambda(t) = \alpha\,(\rho\,\lambda(t-1) + (1-\rho)\,\hat\lambda(t, 0)) + (1-\alpha)\,\hat\lambda(t, t-1),
        \qquad \hat\lambda(t, t') = K\,\mathrm{softmax}(L(t) / (T L(t')))

    A loss that fell less than the others, since the step before or since its first value, weighs
    more. One :math:`\rho` for all losses is drawn at each step: 1 with the probability ``rho``, else 0.
    The unit of a loss cancels. K counts the present losses, and their :math:`\lambda` are scaled to
    add up to K, which only matters once a loss was absent.

    All weights are one in the first step. A loss that is new starts with :math:`\lambda = 1`, and an
    earlier value that is not positive gives the relative progress 1.

    Args:
        alpha: share of the past that is kept at each step, in [0, 1).
        rho: how likely the past is the previous weight instead of the first value, in [0, 1).
        temperature: T, above 0: the larger, the more equal the weights.
        seed: the same seed gives the same draws; None takes one from torch's own generator.

    State:
        ``lambda``, ``first``, ``last``: name -> weight before scaling, first and previous value;
        ``seed``, ``draws``: where the next draw starts.

    >>> ReLoBRaLo()(torch.tensor([200.0, 0.5]))
    tensor([1., 1.])

    References:
        Bischof, Kraus, Multi-Objective Loss Balancing for Physics-Informed Deep Learning, 2021,
        https://arxiv.org/abs/2110.09813. Formula and defaults as in Khadrawi/ReLoBRaLo_PyTorch; the
        part without lookback also as ``relative`` in ``src/update_rules.py`` of
        rbischof/relative_balancing. Deviation: no constant is added to the denominators.
    """

    alpha: float = 0.999
    rho: float = 0.999
    temperature: float = 0.1
    seed: int | None = None
    remembers: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_number(self, "alpha", below=1)
        check_number(self, "rho", below=1)
        check_number(self, "temperature", positive=True)
        check_seed(self)

    def init(self, names: Sequence[str]) -> State:
        """See :class:`Weighting`."""
        return seeded(self.seed)

    def weigh(self, seen: Seen, state: State) -> tuple[Tensor, State]:
        """See :class:`Weighting`."""
        names, losses = observed(seen)
        past, first, last = (state.get(key, {}) for key in ("lambda", "first", "last"))
        generator, after = drawn(state)
        keep = (torch.rand((), generator=generator, dtype=torch.float64) < self.rho).to(losses, non_blocking=True)
        fresh = constant([name not in past for name in names], losses) > 0
        start = torch.where(fresh, losses, recalled(first, names, losses))
        previous = torch.where(fresh, losses, recalled(last, names, losses))
        old = torch.where(fresh, 1.0, recalled(past, names, losses))
        since_start, since_last = (
            len(names) * softmax(ratio(losses, then) / self.temperature) for then in (start, previous)
        )
        new = self.alpha * (keep * old + (1 - keep) * since_start) + (1 - self.alpha) * since_last
        weights = len(names) * new / total(new)
        return spread(weights, seen), {
            **after,
            "lambda": stored(past, names, new.unbind()),
            "first": stored(first, names, start.unbind()),
            "last": stored(last, names, losses.unbind()),
        }
