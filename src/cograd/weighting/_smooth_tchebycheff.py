"""SmoothTchebycheff: a smooth version of the largest loss."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import final

from torch import Tensor

from cograd.errors import WeightingError, shown
from cograd.weighting._contract import (
    Seen,
    State,
    Weighting,
    check_choice,
    check_factors,
    check_number,
    constant,
    observed,
    softmax,
    spread,
    total,
)


@final
@dataclass(frozen=True, slots=True)
class SmoothTchebycheff(Weighting):
    r"""The gradient of :math:`\mu \log \sum_i \exp(\lambda_i (L_i - z_i) / \mu)`.

    That is a smooth :math:`\max_i \lambda_i (L_i - z_i)`, off by :math:`\mu \log K` at most. Its
    gradient is :math:`\lambda_i p_i` with :math:`p = \mathrm{softmax}(\lambda (L - z) / \mu)`; in sum
    scale it is divided by the mean of :math:`\lambda` and multiplied by the number K of present losses,
    so that losses which are equally far from z, under equal preferences, weigh one each.

    The unit of the losses matters: the loss that is largest after :math:`\lambda` gets the weight, and
    :math:`\mu` is in its unit. Losses far below the largest weigh nothing until they are the largest.

    Args:
        mu: the smoothing, in units of the loss, above 0. Small: the largest loss alone. Large: all.
        preference: loss name -> :math:`\lambda`, above 0; 1 without an entry.
        reference: loss name -> :math:`z`, the best value to hope for; 0 without an entry.
        scale: ``"sum"`` as above; ``"paper"``: the gradient as it is.

    >>> SmoothTchebycheff(mu=1.0)(torch.tensor([1.0, 0.5]))
    tensor([1.2449, 0.7551])

    References:
        Lin et al., Smooth Tchebycheff Scalarization for Multi-Objective Optimization, ICML 2024,
        https://arxiv.org/abs/2402.19078. The gradient agrees with ``STCH`` of TorchJD 0.18. The
        preference 1 and the factor K are those of the authors' code for multi-task learning, also in
        LibMTL; the paper's uniform :math:`\lambda = 1 / K` is the same rule with K times the mu.
        Deviation: that code takes logarithms relative to the losses after a warm-up; here the losses
        are taken as they are.
    """

    mu: float = 1.0
    preference: Mapping[str, float] = field(default_factory=dict)
    reference: Mapping[str, float] = field(default_factory=dict)
    scale: str = "sum"

    def __post_init__(self) -> None:
        check_number(self, "mu", positive=True)
        check_factors(self, self.preference)
        check_factors(self, self.reference)
        check_choice(self, "scale", ("sum", "paper"))
        for name, value in self.preference.items():
            if value <= 0:
                raise WeightingError(f"SmoothTchebycheff: preference[{name!r}] must be above 0; found {shown(value)}.")

    @property
    def mentions(self) -> Iterable[str]:
        """See :class:`Weighting`."""
        return {**self.preference, **self.reference}

    def weigh(self, seen: Seen, state: State) -> tuple[Tensor, State]:
        """See :class:`Weighting`."""
        names, losses = observed(seen)
        preference = constant([self.preference.get(name, 1.0) for name in names], losses)
        reference = constant([self.reference.get(name, 0.0) for name in names], losses)
        weights = preference * softmax(preference * (losses - reference) / self.mu)
        if self.scale == "sum":
            weights = weights * len(names) / (total(preference) / len(names))
        return spread(weights, seen), state
