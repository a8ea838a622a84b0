"""The factor of each loss: the user's fixed one times the rule's."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache

import torch
from torch import Tensor

from cograd._routes import Mention
from cograd.errors import WeightingError, report
from cograd.weighting import Stateful, Weighting

Weight = Tensor | float
Rule = Weighting | Stateful | Callable[[Tensor], Tensor]  # the last: a Gramian [K, K] to weights [K]


class Weights:
    """Fixed factors and, if there is one, a rule.

    Args:
        fixed: loss name -> finite number; 1 for a loss without an entry.
        rule: a weighting, with or without a state of its own.
        refresh: compute the Gramian that the rule needs only at each n-th step.

    Raises:
        WeightingError: a factor is not a finite number, or the rule is none.
    """

    def __init__(self, fixed: Mapping[str, float] | None, rule: Rule | None, refresh: int = 1) -> None:
        if not isinstance(fixed, Mapping | None):
            raise WeightingError(f'weights maps losses to numbers, as in {{"gen": 0.5}}; found {type(fixed).__name__}.')
        self.fixed = dict(fixed or {})
        problems = [
            f"weights[{name!r}] must be a finite number; found {w!r}. A weight that changes is a rule: weighting=..."
            for name, w in self.fixed.items()
            if not isinstance(w, int | float) or not math.isfinite(w)
        ]
        if problems:
            raise WeightingError(report(problems))
        self.balance = rule if rule is None or isinstance(rule, Stateful) else Stateful(rule, refresh)

    @property
    def shares(self) -> bool:
        """Does the rule look at gradients, so that it weighs only what losses share?"""
        return self.balance is not None and self.balance.shares

    @property
    def name(self) -> str | None:
        """What the rule is called."""
        return None if self.balance is None else type(self.balance.rule).__name__

    @property
    def looks_back(self) -> bool:
        """Does the rule ask for the losses after the update?"""
        return self.balance is not None and "after" in self.balance.rule.needs

    def after(self, losses: Mapping[str, Tensor]) -> None:
        """Show the rule the losses after the update."""
        if self.balance is not None:
            self.balance.after(losses)

    def without_fixed(self, weights: Mapping[str, Weight]) -> dict[str, float]:
        """``weights`` without the user's factors, none of which is 0."""
        return {name: float(w) / self.fixed.get(name, 1.0) for name, w in weights.items()}

    def mentions(self) -> list[Mention]:
        """The losses that are named here."""
        found = [Mention(name, f"weights[{name!r}]", WeightingError) for name in self.fixed]
        if self.balance is not None:
            rule = self.balance.rule
            found += [Mention(name, type(rule).__name__, WeightingError) for name in rule.mentions]
        return found

    def before(self, names: Iterable[str], step: int) -> dict[str, float]:
        """What is known before the losses are evaluated. A loss with weight 0 is to be dropped."""
        if self.balance is None:
            return {name: self.fixed.get(name, 1.0) for name in names}
        return {name: w * self.fixed.get(name, 1.0) for name, w in self.balance.before(names, step).items()}

    def of(self, losses: Mapping[str, Tensor], before: Mapping[str, float], step: int) -> dict[str, Weight]:
        """The weights of the present ``losses``."""
        if self.balance is None or not self.balance.rule.needs:
            return {name: before[name] for name in losses}
        weights = self.balance.weigh(losses, step)
        return {name: w if before[name] == 1.0 else w * before[name] for name, w in weights.items()}

    def commit(self) -> None:
        """The step is done: let the rule remember it."""
        if self.balance is not None:
            self.balance.commit()


def cotangent(loss: Tensor, weight: Weight) -> Tensor | None:
    """The gradient of ``weight * loss`` with respect to ``loss``; None, as autograd has it, for one.

    Bit for bit what autograd computes for the product, without its two extra operations. For half
    precision the product is that of the loss in float32. Always a new tensor: below a loss that is
    a view of a parameter it becomes that parameter's ``.grad``, which anyone may change in place.
    """
    if isinstance(weight, Tensor):
        return weight.to(device=loss.device, dtype=loss.dtype, copy=True)
    if weight == 1.0:
        return None
    return _constant(weight, loss.dtype, loss.device).clone()


@lru_cache(maxsize=256)
def _constant(weight: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(weight, dtype=torch.promote_types(dtype, torch.float32), device=device).to(dtype)
