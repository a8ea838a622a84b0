"""Followers: copies that trail behind a model, as an average of it or renewed from time to time."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from cograd.errors import ModelError, report, unknown


@final
@dataclass(frozen=True, slots=True)
class EMA:
    """An exponential moving average: copy = decay * copy + (1 - decay) * model. Buffers are copied.

    Args:
        of: the name of the model that is followed.
        decay: from 0 to 1, or a function from the number of earlier updates to it, for a warm-up.
        every: follow at each n-th update of the model.

    Raises:
        ModelError: a value is out of range.

    >>> warm = EMA("gen", decay=lambda n: min(0.999, (1 + n) / (10 + n)))
    >>> warm.weight(0)
    0.1
    """

    of: str
    decay: float | Callable[[int], float] = 0.999
    every: int = 1

    def __post_init__(self) -> None:
        _check_every(self, self.every)
        self.weight(0)

    def weight(self, updates: int) -> float:
        """The decay after so many updates of the follower.

        Raises:
            ModelError: it is not from 0 to 1.
        """
        found: Any = self.decay(updates) if callable(self.decay) else self.decay
        if not (isinstance(found, int | float) and 0 <= found <= 1):
            when = f" after {updates} updates" if callable(self.decay) else ""
            raise ModelError(f"EMA(decay=...) is a number from 0 to 1, or a function to one; found {found!r}{when}.")
        return found


@final
@dataclass(frozen=True, slots=True)
class Copy:
    """A hard copy, renewed at each n-th update of the model: the target network of Q-learning.

    Args:
        of: the name of the model that is followed.
        every: how many of its updates lie between.

    Raises:
        ModelError: ``every`` is out of range.

    >>> Copy("online", every=100)
    Copy(of='online', every=100)
    """

    of: str
    every: int = 1

    def __post_init__(self) -> None:
        _check_every(self, self.every)

    def weight(self, updates: int) -> float:
        """Nothing of the old copy remains."""
        return 0.0


class Follower:
    """A copy of a model, with gradients off and in eval mode, and the rule by which it follows.

    Attributes:
        rule: how.
        model: the copy.
        seen: updates of the model since the copy was made.
    """

    def __init__(self, rule: EMA | Copy, source: nn.Module) -> None:
        self.rule, self._source = rule, source
        self.model = copy.deepcopy(source).requires_grad_(False).eval()
        self.seen = 0

    def check(self, name: str) -> None:
        """Raises ModelError unless model and copy still are of one shape."""
        own, theirs = ([tuple(p.shape) for p in m.parameters()] for m in (self.model, self._source))
        if own != theirs:
            raise ModelError(
                f"models[{self.rule.of!r}] has changed its parameters since followers[{name!r}] was made of it "
                f"({len(own)} then, {len(theirs)} now). Make the Joint anew."
            )

    @torch.no_grad()
    def follow(self, updates: int) -> bool:
        """The model was updated: follow it, if it is time to.

        Args:
            updates: how often it was followed before.
        """
        self.seen += 1
        if self.seen % self.rule.every:
            return False
        own, theirs = (list[Any](m.parameters()) for m in (self.model, self._source))
        if weight := self.rule.weight(updates):
            get_ema_multi_avg_fn(weight)(own, theirs, updates)
        else:
            torch._foreach_copy_(own, theirs)
        for b, theirs_b in zip(self.model.buffers(), self._source.buffers(), strict=True):
            b.copy_(theirs_b)
        return True


def build_followers(followers: Any, models: Mapping[str, nn.Module]) -> dict[str, Follower]:
    """Name -> follower.

    Raises:
        ModelError: lists every entry that does not hold.
    """
    if followers is None:
        return {}
    if not isinstance(followers, Mapping):
        raise ModelError(
            f'followers maps names to EMA or Copy, as in {{"average": cograd.EMA("gen")}}; found {followers!r}.'
        )
    built, problems = {}, []
    for name, rule in followers.items():
        if not isinstance(name, str) or not name:
            problems.append(f"A follower's name is a non-empty string; found {name!r}.")
        elif name in models:
            problems.append(f"followers[{name!r}] has the name of a model. Choose another.")
        elif not isinstance(rule, EMA | Copy):
            problems.append(f"followers[{name!r}] is cograd.EMA(...) or cograd.Copy(...); found {rule!r}.")
        elif rule.of not in models:
            problems.append(f"followers[{name!r}] follows {rule.of!r}. {unknown('models', rule.of, models)}")
        else:
            try:
                built[name] = Follower(rule, models[rule.of])
            except Exception as error:
                problems.append(
                    f"followers[{name!r}]: copy.deepcopy of models[{rule.of!r}] fails ({error}). Keep tensors that are "
                    "computed out of its attributes."
                )
    if problems:
        raise ModelError(report(problems))
    return built


def _check_every(rule: object, every: Any) -> None:
    if not isinstance(every, int) or isinstance(every, bool) or every < 1:
        raise ModelError(f"{type(rule).__name__}(every=...) is a whole number of at least 1; found {every!r}.")
