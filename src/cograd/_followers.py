"""Followers: copies that trail behind a model, as an average of it or renewed from time to time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, final

from torch import nn

from cograd._arity import misfit
from cograd.errors import ModelError, shown


@final
@dataclass(frozen=True, slots=True)
class EMA:
    """An exponential moving average: copy = decay * copy + (1 - decay) * model.

    Buffers are copied, and so are parameters that were never trained. Parameters in bfloat16 or another
    format of less than 32 bits are averaged in float32, and the copy holds that average rounded.

    Args:
        of: the name of the model that is followed.
        decay: from 0 to 1, or a function from the number of earlier updates to it, for a warm-up.
        every: follow at each n-th update of the model.
        copy: a module of the same make to hold the average, for a model that ``copy.deepcopy`` refuses. It is
            given the model's values when the Joint is made. By default a deep copy of the model.

    Raises:
        ModelError: a value is out of range.

    >>> warm = EMA("gen", decay=lambda n: min(0.999, (1 + n) / (10 + n)))
    >>> warm.weight(0)
    0.1
    """

    of: str
    decay: float | Callable[[int], float] = 0.999
    every: int = 1
    copy: nn.Module | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        _check(self)
        if callable(self.decay) and (problem := misfit("EMA(decay=...)", self.decay, "updates")):
            raise ModelError(problem)
        self.weight(0)

    def weight(self, updates: int) -> float:
        """The decay after so many updates of the follower.

        Raises:
            ModelError: it is not from 0 to 1.
        """
        found: Any = self.decay
        if callable(found):
            try:
                found = found(updates)
            except Exception as error:
                error.add_note(f"That is from EMA(decay=...), called with {updates}.")
                raise
        if not (isinstance(found, int | float) and not isinstance(found, bool) and 0 <= found <= 1):
            when = f" after {updates} updates" if callable(self.decay) else ""
            raise ModelError(
                f"EMA(decay=...) must be a number from 0 to 1, or a function to one; found {shown(found)}{when}."
            )
        return found


@final
@dataclass(frozen=True, slots=True)
class Copy:
    """A hard copy, renewed at each n-th update of the model: the target network of Q-learning.

    Args:
        of: the name of the model that is followed.
        every: how many of its updates lie between.
        copy: a module of the same make to be the copy, for a model that ``copy.deepcopy`` refuses. It is given
            the model's values when the Joint is made. By default a deep copy of the model.

    Raises:
        ModelError: a value is out of range.

    >>> Copy("online", every=100)
    Copy(of='online', every=100)
    """

    of: str
    every: int = 1
    copy: nn.Module | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        _check(self)

    def weight(self, updates: int) -> float:
        """Nothing of the old copy remains."""
        return 0.0


def _check(rule: EMA | Copy) -> None:
    kind = type(rule).__name__
    of: Any = rule.of
    every: Any = rule.every
    copy: Any = rule.copy
    if not isinstance(of, str) or not of:
        raise ModelError(f"{kind}(of=...) must be the name of a model; found {shown(of)}.")
    if not isinstance(every, int) or isinstance(every, bool) or every < 1:
        raise ModelError(f"{kind}(every=...) must be a whole number of at least 1; found {shown(every)}.")
    if copy is not None and not isinstance(copy, nn.Module):
        raise ModelError(f"{kind}(copy=...) must be an nn.Module like the model, or None; found {shown(copy)}.")
