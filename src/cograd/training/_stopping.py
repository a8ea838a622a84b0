"""When a run stops, or a model is frozen: criteria that say why in words."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, final

from cograd.errors import StateError, TrainingError, quoted, shown

_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*([dhms])")
_TIME = re.compile(rf"\s*({_PART.pattern}\s*)+", re.IGNORECASE)


class Criterion(ABC):
    """Says when to stop, and why. Combine criteria with ``|``.

    Attributes:
        metrics: names of the values that it looks at, as they are logged: ``"val/digit"``,
            ``"loss/digit"``. ``fit`` refuses a name that does not exist.
    """

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the values that it looks at."""
        return ()

    @abstractmethod
    def check(self, values: Mapping[str, float], step: int, seconds: float) -> str | None:
        """Called after each step, and with each set of new values.

        Args:
            values: what is new: name -> number; most often empty.
            step: steps done.
            seconds: time spent in training, earlier parts of a resumed run included.

        Returns:
            Why to stop now, in words; None to go on.
        """

    def state_dict(self) -> dict[str, Any]:
        """What the next check depends on, in plain numbers."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where ``state`` was taken."""
        if not isinstance(state, Mapping) or state:
            raise StateError(
                f"{self!r} has nothing to remember; found {shown(state)}. Use the state of this criterion."
            )

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def __or__(self, other: Criterion) -> Criterion:
        if not isinstance(other, Criterion):
            return NotImplemented
        return AnyOf(tuple(part for c in (self, other) for part in (c.parts if isinstance(c, AnyOf) else (c,))))


@final
@dataclass
class Plateau(Criterion):
    """Stop when a value has stopped improving.

    Args:
        metric: the name of the value, such as ``"val/digit"``.
        patience: how many values in a row may bring no improvement.
        higher_is_better: the value should grow.
        min_delta: by how much it must be better to count; at least 0, in units of the value.

    Raises:
        TrainingError: an argument is out of range.

    >>> stop = cograd.Plateau("val/digit", patience=2)
    >>> for step, value in enumerate([0.9, 0.5, 0.6, 0.5]):
    ...     print(stop.check({"val/digit": value}, step, seconds=0.0))
    None
    None
    None
    val/digit has not improved 2 times in a row (best: 0.5 at step 1)
    """

    metric: str
    patience: int = 5
    higher_is_better: bool = False
    min_delta: float = 0.0
    _best: float | None = field(default=None, init=False, repr=False, compare=False)
    _step: int = field(default=0, init=False, repr=False, compare=False)
    _worse: int = field(default=0, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _need_name("Plateau", self.metric)
        _need_count("Plateau(patience=...)", self.patience)
        _need_flag("Plateau", self.higher_is_better)
        if not _is_number(self.min_delta) or not 0 <= self.min_delta < math.inf:
            raise TrainingError(
                f"Plateau(min_delta=...) must be a number of at least 0; found {shown(self.min_delta)}."
            )

    @property
    def metrics(self) -> tuple[str, ...]:
        """The one value."""
        return (self.metric,)

    def check(self, values: Mapping[str, float], step: int, seconds: float) -> str | None:
        """Count the values that bring no improvement. NaN brings none."""
        if self.metric not in values:
            return None
        value = values[self.metric]
        if self._improves(value):
            self._best, self._step, self._worse = value, step, 0
            return None
        self._worse += 1
        if self._worse < self.patience:
            return None
        best = "it was always NaN" if self._best is None else f"best: {self._best:.4g} at step {self._step}"
        return f"{self.metric} has not improved {self._worse} times in a row ({best})"

    def _improves(self, value: float) -> bool:
        if self._best is None or math.isnan(value):
            return not math.isnan(value)
        gain = value - self._best if self.higher_is_better else self._best - value
        return gain > self.min_delta

    def state_dict(self) -> dict[str, Any]:
        """The best value, when it was, and how many values have been no better since."""
        return {"best": self._best, "step": self._step, "worse": self._worse}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where ``state`` was taken."""
        _need_keys(self, self.state_dict(), state)
        best = state["best"]
        if not (best is None or _is_number(best)) or not all(isinstance(state[key], int) for key in ("step", "worse")):
            raise StateError(f"The state of {self!r} must hold numbers; found {shown(state)}. Use another checkpoint.")
        self._best, self._step, self._worse = state["best"], state["step"], state["worse"]


@final
@dataclass(frozen=True)
class MaxSteps(Criterion):
    """Stop after so many steps.

    Raises:
        TrainingError: ``n`` is not a whole number of at least 1.

    >>> cograd.MaxSteps(100).check({}, 100, seconds=0.0)
    'the limit of 100 steps is reached'
    """

    n: int

    def __post_init__(self) -> None:
        _need_count("MaxSteps(n)", self.n)

    def check(self, values: Mapping[str, float], step: int, seconds: float) -> str | None:
        """Compare the number of steps."""
        return f"the limit of {self.n} steps is reached" if step >= self.n else None


@final
@dataclass(frozen=True)
class TimeLimit(Criterion):
    """Stop after some time in training; the step in flight is finished. Earlier parts of a resumed run count.

    Args:
        seconds: a number of seconds, a ``timedelta``, or text with units: ``"2h30m"``, ``"1.5h"``, ``"90s"``, ``"1d"``.

    Raises:
        TrainingError: this is no length of time above 0.

    >>> cograd.TimeLimit("2h30m")
    TimeLimit(seconds=9000.0)
    >>> cograd.TimeLimit(60).check({}, 12, seconds=60.5)
    'the time limit of 0:01:00 is over'
    """

    seconds: float

    def __init__(self, seconds: float | timedelta | str) -> None:
        object.__setattr__(self, "seconds", _seconds(seconds))

    def check(self, values: Mapping[str, float], step: int, seconds: float) -> str | None:
        """Compare the time."""
        return f"the time limit of {timedelta(seconds=self.seconds)} is over" if seconds >= self.seconds else None


@final
@dataclass(frozen=True)
class Target(Criterion):
    """Stop when a value is good enough.

    Args:
        metric: the name of the value, such as ``"val/accuracy"``.
        value: what it must reach.
        higher_is_better: it must be at least, not at most, ``value``.

    Raises:
        TrainingError: an argument is out of range.

    >>> cograd.Target("val/accuracy", 0.95, higher_is_better=True).check({"val/accuracy": 0.97}, 400, seconds=0.0)
    'val/accuracy is 0.97, which reaches 0.95'
    """

    metric: str
    value: float
    higher_is_better: bool = False

    def __post_init__(self) -> None:
        _need_name("Target", self.metric)
        _need_flag("Target", self.higher_is_better)
        if not _is_number(self.value) or math.isnan(self.value):
            raise TrainingError(f"Target(value=...) must be a number; found {shown(self.value)}.")

    @property
    def metrics(self) -> tuple[str, ...]:
        """The one value."""
        return (self.metric,)

    def check(self, values: Mapping[str, float], step: int, seconds: float) -> str | None:
        """Compare the value."""
        if self.metric not in values:
            return None
        found = values[self.metric]
        reached = found >= self.value if self.higher_is_better else found <= self.value
        return f"{self.metric} is {found:.4g}, which reaches {self.value:.4g}" if reached else None


@final
@dataclass(frozen=True)
class AnyOf(Criterion):
    """Stop when one of several criteria says so: ``a | b``."""

    parts: tuple[Criterion, ...]

    def __post_init__(self) -> None:
        parts: Any = self.parts
        if not isinstance(parts, tuple) or not parts or not all(isinstance(part, Criterion) for part in parts):
            raise TrainingError(
                "AnyOf(parts) must be a tuple of criteria, such as (Plateau('val/a'), MaxSteps(9)); found "
                f"{shown(parts)}."
            )

    def __repr__(self) -> str:
        return " | ".join(repr(part) for part in self.parts)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Those of all parts."""
        return tuple(dict.fromkeys(name for part in self.parts for name in part.metrics))

    def check(self, values: Mapping[str, float], step: int, seconds: float) -> str | None:
        """Ask every part, since each must see every value."""
        reasons = [reason for part in self.parts if (reason := part.check(values, step, seconds))]
        return "; ".join(reasons) or None

    def state_dict(self) -> dict[str, Any]:
        """Those of all parts."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where ``state`` was taken."""
        _need_keys(self, self.state_dict(), state)
        if not isinstance(state["parts"], Sequence) or len(state["parts"]) != len(self.parts):
            raise StateError(
                f"The state of {self!r} must have {len(self.parts)} parts; found {shown(state['parts'])}. Use that of "
                "the same criteria."
            )
        for part, saved in zip(self.parts, state["parts"], strict=True):
            part.load_state_dict(saved)


def _seconds(given: Any) -> float:
    if isinstance(given, timedelta):
        found = given.total_seconds()
    elif isinstance(given, str) and _TIME.fullmatch(given):
        found = sum(float(amount) * _UNITS[unit.lower()] for amount, unit in re.findall(_PART, given.lower()))
    else:
        found = float(given) if _is_number(given) else 0.0
    if not 0 < found < math.inf:
        raise TrainingError(
            "TimeLimit needs a length of time above 0: a number of seconds, a timedelta, or text with units such as "
            f"'2h30m', '1.5h' or '90s'; found {shown(given)}."
        )
    return found


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _need_name(kind: str, metric: object) -> None:
    if not isinstance(metric, str) or not metric:
        raise TrainingError(f"{kind} needs the name of a value, such as 'val/digit'; found {shown(metric)}.")


def _need_flag(kind: str, flag: object) -> None:
    if not isinstance(flag, bool):
        raise TrainingError(f"{kind}(higher_is_better=...) must be True or False; found {shown(flag)}.")


def _need_count(what: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise TrainingError(f"{what} must be a whole number of at least 1; found {shown(value)}.")


def _need_keys(criterion: Criterion, mine: Mapping[str, Any], state: Any) -> None:
    if not isinstance(state, Mapping) or state.keys() != mine.keys():
        raise StateError(
            f"The state of {criterion!r} must have {quoted(mine)}; found {shown(state)}. Use that of the same "
            "criterion."
        )
