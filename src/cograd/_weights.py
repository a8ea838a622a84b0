"""The factor of each loss: the user's own, a number or a function of the step, times the rule's."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from cograd._arity import misfit
from cograd._routes import Mention
from cograd.errors import WeightingError, report, shown
from cograd.gramian import Engine
from cograd.weighting import Stateful, Weighting
from cograd.weighting._scheduled import Factor as Factor
from cograd.weighting._scheduled import factor_at

Weight = Tensor | float
Rule = Weighting | Stateful | Callable[[Tensor], Tensor]  # the last: a Gramian [K, K] to weights [K]


class Weights:
    """The user's factors and, if there is one, a rule.

    Args:
        own: loss name -> finite number, or a function of the step that gives one; 1 for a loss
            without an entry.
        rule: a weighting, with or without a state of its own.
        refresh: compute the Gramian that the rule needs only at each n-th step.

    Raises:
        WeightingError: a factor is neither, or the rule is none.
    """

    def __init__(self, own: Mapping[str, Factor] | None, rule: Rule | None, refresh: int = 1) -> None:
        if not isinstance(own, Mapping | None):
            raise WeightingError(
                'weights maps losses to numbers or functions of the step, as in {"gen": 0.5, "kl": lambda step: '
                f"min(1.0, step / 1000)}}; found {shown(own)}.{place(own)}"
            )
        if problems := list(_problems(own or {})):
            raise WeightingError(report(problems))
        self._own = dict(own or {})
        self.follows_step = any(callable(factor) for factor in self._own.values())
        self.balance = rule if rule is None or isinstance(rule, Stateful) else stateful(rule, refresh)

    def __str__(self) -> str:
        return "; ".join(f"{name} {'by step' if callable(f) else f'{f:g}'}" for name, f in self._own.items())

    def own(self, step: int) -> Mapping[str, float]:
        """The user's factors, of the losses that have one.

        Raises:
            WeightingError: a function gives no finite number.
        """
        if not self.follows_step:
            return self._own  # type: ignore[return-value]
        return {name: factor_at(f"weights[{name!r}]", factor, step) for name, factor in self._own.items()}

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

    def mentions(self) -> list[Mention]:
        """The losses that are named here."""
        found = [Mention(name, f"weights[{shown(name)}]", WeightingError) for name in self._own]
        if self.balance is not None:
            rule = self.balance.rule
            found += [Mention(name, type(rule).__name__, WeightingError) for name in rule.mentions]
        return found

    def before(self, names: Iterable[str], step: int) -> dict[str, float]:
        """What is known before the losses are evaluated. A loss with weight 0 is to be dropped."""
        own = self.own(step)
        if self.balance is None:
            return {name: own.get(name, 1.0) for name in names}
        return {name: w * own.get(name, 1.0) for name, w in self.balance.before(names, step).items()}

    def of(self, losses: Mapping[str, Tensor], before: Mapping[str, float], step: int) -> dict[str, Weight]:
        """The weights of the present ``losses``."""
        if self.balance is None or not self.balance.rule.needs:
            return {name: before[name] for name in losses}
        weights = self.balance.weigh(losses, step)
        return {name: w if before[name] == 1.0 else w * before[name] for name, w in weights.items()}

    def blame(self, losses: Mapping[str, Tensor]) -> str:
        """What to do about a weight of the rule that is no number, now that ``losses`` were given to it."""
        assert self.balance is not None
        for name, loss in losses.items():
            if objection := self.balance.rule.objection(float(loss)):
                return (
                    f"{self.name} {objection}, and {name!r} is {float(loss):g}. Take a rule that divides by "
                    f"magnitudes, such as cograd.weighting.RunningMean(), or add a constant to {name!r} that keeps it "
                    "above zero."
                )
        return f"Look at the rule: {self.name} gave it for losses that are numbers."

    def commit(self) -> None:
        """The step is done: let the rule remember it."""
        if self.balance is not None:
            self.balance.commit()


def stateful(rule: Any, refresh: int = 1) -> Stateful:
    """``rule`` with a state of its own.

    Raises:
        WeightingError: it is no rule.
    """
    if (isinstance(rule, Mapping | Engine)) or (isinstance(rule, type) and issubclass(rule, Engine)):
        raise WeightingError(
            f"weighting takes a rule, such as cograd.weighting.FirstValue(); found {shown(rule)}.{place(rule)}"
        )
    return Stateful(rule, refresh)


def _problems(own: Mapping[str, Any]) -> Iterator[str]:
    for name, factor in own.items():
        if callable(factor) and not isinstance(factor, Tensor | Weighting | type):
            if problem := misfit(f"weights[{shown(name)}]", factor, "step"):
                yield problem
        elif not isinstance(factor, int | float) or not math.isfinite(factor):
            yield (
                f"weights[{shown(name)}] must be a finite number, or a function of the step that gives one; found "
                f"{shown(factor)}.{place(factor)}"
            )


def place(value: object) -> str:
    """Where a value belongs that was given elsewhere; empty if nobody can tell."""
    kind = value if isinstance(value, type) else type(value)
    for what, place in ((Weighting, "weighting"), (Stateful, "weighting"), (Engine, "gramian"), (Mapping, "weights")):
        if issubclass(kind, what):
            return f" Give it as {place}=."
    return ""


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
