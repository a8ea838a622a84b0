"""Uncertainty: each loss divided by a learned variance."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from cograd.errors import WeightingError, quoted, shown
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
    towards,
)

KINDS = ("regression", "classification", "revised")


@final
@dataclass(frozen=True, slots=True)
class Uncertainty(Weighting):
    r"""Divide each loss by a variance :math:`\sigma_i^2 = e^{s_i}` that is learned beside the model.

    The objective is a sum over the losses of

    - regression: :math:`\frac12 e^{-s} L + \frac12 s`, so that :math:`w = \frac12 e^{-s}`;
    - classification: :math:`e^{-s} L + \frac12 s`, so that :math:`w = e^{-s}`;
    - revised: :math:`\frac12 e^{-s} L + \log(1 + e^s)`, so that :math:`w = \frac12 e^{-s}`. Its
      penalty does not go below zero, and a loss that vanishes draws s to minus infinity more slowly.

    Each s starts at 0 and follows the gradient of its own term, which needs no backward pass:
    :math:`s \leftarrow s - lr\,\partial/\partial s`. The weights of a step use s before it. The scale
    is that of the formula: once s has settled, w is about :math:`1 / (2L)` for regression and for
    classification, so each loss contributes about one half to the total.

    A step does not pass the s that is best for the present batch, so a loss of :math:`10^6` moves s
    to :math:`\log 10^6` at most. A negative loss has no best s: its weight is NaN, which the finite
    check of a step reports before any parameter moves.

    Args:
        kind: one of the three for all losses, or loss name -> kind; regression without an entry.
        lr: the learning rate of s, at least 0. That of the model is usually too small for it.
        floor: the smallest loss (in units of the loss) that s adapts to.

    State:
        ``s``: name -> log variance.

    >>> rule = Uncertainty(lr=0.1)
    >>> seen = Seen(("depth",), torch.tensor([3.0]), (True,))
    >>> weights, state = rule.weigh(seen, rule.init(()))
    >>> weights, state["s"]["depth"]
    (tensor([0.5000]), tensor(0.1000))

    References:
        Kendall, Gal, Cipolla, Multi-Task Learning Using Uncertainty to Weigh Losses for Scene
        Geometry and Semantics, CVPR 2018, Eq. 7 and 10, https://arxiv.org/abs/1705.07115. The
        regression form agrees with ``methods/weight_methods.py`` of AvivNavon/nash-mtl and with
        ``UW`` of TorchJD 0.18.
        Liebel, Körner, Auxiliary Tasks in Multi-task Learning, 2018,
        https://arxiv.org/abs/1805.06334, for ``revised``: 0.5 / c² L + log(1 + c²), as in
        ``AutomaticWeightedLoss`` of Mikoto10032/AutomaticWeightedLoss, which learns c itself.
        Deviations: plain gradient descent on s, stopped at the best s of the batch.
    """

    kind: str | Mapping[str, str] = "regression"
    lr: float = 0.025
    floor: float = 1e-12
    remembers: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_number(self, "lr")
        check_number(self, "floor", positive=True)
        for kind in self.kind.values() if isinstance(self.kind, Mapping) else (self.kind,):
            if not isinstance(kind, str) or kind not in KINDS:
                raise WeightingError(f"Uncertainty: kind must be one of {quoted(KINDS)}; found {shown(kind)}.")

    @property
    def mentions(self) -> Iterable[str]:
        """See :class:`Weighting`."""
        return self.kind if isinstance(self.kind, Mapping) else ()

    def objection(self, loss: float) -> str:
        """See :class:`Weighting`."""
        return "" if loss >= 0 else "needs losses that are not negative"

    def weigh(self, seen: Seen, state: State) -> tuple[Tensor, State]:
        """See :class:`Weighting`."""
        names, losses = observed(seen)
        known = state.get("s", {})
        s = recalled(known, names, losses)
        kinds = [self.kind.get(name, KINDS[0]) if isinstance(self.kind, Mapping) else self.kind for name in names]
        factor = constant([1.0 if kind == "classification" else 0.5 for kind in kinds], losses)
        revised = constant([kind == "revised" for kind in kinds], losses) > 0
        weights = factor * (-s).exp()
        size = losses.clamp_min(self.floor)
        best = torch.where(revised, (size + (size * (size + 8)).sqrt()) / 4, 2 * factor * size).log()
        slope = torch.where(revised, s.sigmoid(), 0.5) - weights * size
        return spread(torch.where(losses < 0, torch.nan, weights), seen), {
            "s": stored(known, names, towards(s, -self.lr * slope, best).unbind())
        }
