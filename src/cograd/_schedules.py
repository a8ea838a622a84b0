"""Schedules: learning rates that change with the updates of an optimizer, or with the epochs."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, final

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from cograd._arity import misfit
from cograd._optimizers import REST, optimizers_named
from cograd.errors import OptimizerError, PartialStepError, quoted, report, shown, unknown

_COUNTS = ("epoch", "num_updates")  # what step() calls how often it was advanced
_NUMBERS = ("metrics", "metric")  # and the number that it looks at

Scheduler = LRScheduler | Callable[[Optimizer], LRScheduler]


@final
@dataclass(frozen=True, slots=True)
class EachEpoch:
    """Advance a scheduler by epochs, at :meth:`cograd.Joint.end_epoch`, rather than by batches.

    Args:
        scheduler: a scheduler, or a function from the optimizer to one.
        metric: the name of the number that it looks at, for ``ReduceLROnPlateau``.

    Raises:
        OptimizerError: ``metric`` is no name.

    >>> from functools import partial
    >>> plateau = EachEpoch(partial(torch.optim.lr_scheduler.ReduceLROnPlateau, patience=3), metric="val/digit")
    """

    scheduler: Any
    metric: str | None = None

    def __post_init__(self) -> None:
        metric: Any = self.metric
        if not isinstance(metric, str | None) or metric == "":
            raise OptimizerError(f"EachEpoch(metric=...) must be the name of a number, or None; found {shown(metric)}.")


Schedulers = Scheduler | EachEpoch | Mapping[str, Scheduler | EachEpoch]


class Schedule:
    """One scheduler, advanced only where its optimizer has stepped.

    Attributes:
        scheduler: torch's, or one like it.
        each_epoch: whether it counts epochs; else batches.
        metric: the number that it looks at, if any.
        count: how often it was advanced.
    """

    def __init__(self, scheduler: Any, each_epoch: bool, metric: str | None) -> None:
        self.scheduler, self.each_epoch, self.metric = scheduler, each_epoch, metric
        self.count = 0
        self._stepped = False  # the optimizer, since the last advance
        self._step = _method(scheduler, each_epoch)
        parameters = inspect.signature(self._step).parameters
        self._counts = any(name in parameters and _required(parameters[name]) for name in _COUNTS)
        self._number = next((name for name in _NUMBERS if name in parameters), None)

    def stepped(self) -> None:
        """The optimizer has stepped."""
        self._stepped = True

    def advance(self, optimizer: str, value: float | None = None, stepped: Collection[str] = ()) -> None:
        """A batch, or an epoch, is over.

        Args:
            optimizer: the name of the one that it schedules.
            value: the number that it looks at.
            stepped: all optimizers that have stepped, for the error.

        Raises:
            PartialStepError: the scheduler failed, after the step of its optimizer.
        """
        if not self._stepped:
            return
        self._stepped = False
        self.count += 1
        count = (self.count,) if self._counts else ()
        number = {} if value is None or self._number is None else {self._number: value}
        try:
            self._step(*count, **number)
        except Exception as error:
            who = list(dict.fromkeys([*stepped, optimizer]))
            raise PartialStepError(f"the scheduler of optimizer {optimizer!r}", who, error, after=True) from error

    def state_dict(self) -> dict[str, Any]:
        """What torch's scheduler saves, how often it advanced, and whether the optimizer has stepped since."""
        return {
            "kind": _kind(self.scheduler),
            "count": self.count,
            "stepped": self._stepped,
            "scheduler": self.scheduler.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state``."""
        self._stepped, self.count = state["stepped"], state["count"]
        self.scheduler.load_state_dict(copy.deepcopy(state["scheduler"]))


def build_schedules(schedulers: Any, optimizers: Mapping[str, Optimizer]) -> dict[str, Schedule]:
    """Optimizer -> its schedule.

    Raises:
        OptimizerError: lists every entry that does not hold. The optimizers are as before.
    """
    if schedulers is None:
        return {}
    entries = schedulers if isinstance(schedulers, Mapping) else {REST: schedulers}
    built, problems = {}, []
    chosen = dict.fromkeys(optimizers, entries[REST]) if REST in entries else {}
    for name, entry in entries.items():
        named = optimizers_named(name, optimizers)
        chosen |= {each: entry for each in named if each == name or each not in entries}
        if not named and name != REST:
            problems.append(f"schedulers[{shown(name)}] names no optimizer. {unknown('optimizers', name, optimizers)}")
    before = {name: [dict(group) for group in optimizer.param_groups] for name, optimizer in optimizers.items()}
    for name, entry in chosen.items():
        each = entry if isinstance(entry, EachEpoch) else None
        try:
            made = _made(each.scheduler if each else entry, optimizers[name], f"schedulers[{name!r}]")
            _check(made, each is not None, each.metric if each else None, f"schedulers[{name!r}], a {_kind(made)},")
        except _Problem as problem:
            problems.append(str(problem))
        else:
            built[name] = Schedule(made, each is not None, each.metric if each else None)
    if problems:
        for name, groups in before.items():  # a scheduler changes them as soon as it is made
            for group, old in zip(optimizers[name].param_groups, groups, strict=True):
                group.clear()
                group.update(old)
        raise OptimizerError(report(problems))
    return built


class _Problem(Exception):  # noqa: N818
    """What is wrong with one entry."""


def _made(entry: Any, optimizer: Optimizer, where: str) -> Any:
    made = entry
    if callable(entry) and not hasattr(entry, "optimizer"):
        if problem := misfit(where, entry, "optimizer"):
            raise _Problem(problem)
        try:
            made = entry(optimizer)
        except Exception as error:
            raise _Problem(
                f"{where} is a function that fails on its optimizer ({type(error).__name__}: {error}). It is given the "
                "optimizer and returns a scheduler."
            ) from error
    if not all(hasattr(made, part) for part in ("step", "state_dict", "load_state_dict", "optimizer")):
        raise _Problem(
            f"{where} must be a scheduler or a function from the optimizer to one, as in partial(CosineAnnealingLR, "
            f"T_max=1000); found {shown(made)}."
        )
    if made.optimizer is not optimizer:
        raise _Problem(f"{where} schedules another optimizer than optimizers{where.removeprefix('schedulers')}.")
    return made


def _check(made: Any, each_epoch: bool, metric: str | None, what: str) -> None:
    """Can it be advanced with what there is? Asked now, since after a step it would be too late."""
    in_epochs = getattr(made, "t_in_epochs", None)  # timm
    if in_epochs is not None and in_epochs != each_epoch:
        raise _Problem(
            f"{what} counts {'epochs' if in_epochs else 'updates'} (t_in_epochs={in_epochs}): "
            + ("wrap it, cograd.EachEpoch(...)." if in_epochs else "leave out cograd.EachEpoch.")
        )
    parameters = inspect.signature(_method(made, each_epoch)).parameters
    strange = [name for name, p in parameters.items() if _required(p) and name not in (*_COUNTS, *_NUMBERS)]
    if strange:
        raise _Problem(
            f"{what} cannot be advanced: its step() needs {quoted(strange)}. It gets a count ({quoted(_COUNTS)}) and a "
            f"number ({quoted(_NUMBERS)}). Wrap it in a class with such a step()."
        )
    number = next((name for name in _NUMBERS if name in parameters), None)
    needs = number is not None and (
        _required(parameters[number])
        or any(isinstance(part, ReduceLROnPlateau) for part in getattr(made, "__dict__", {}).values())
    )
    if needs and metric is None:
        raise _Problem(f'{what} looks at a number. Name it: cograd.EachEpoch(..., metric="val/loss").')
    if metric is not None and number is None:
        raise _Problem(f"{what} looks at no number. Leave out the metric.")


def _method(scheduler: Any, each_epoch: bool) -> Callable[..., Any]:
    """How it is advanced. Schedulers of timm have a method of their own for updates."""
    method: Callable[..., Any] = scheduler.step if each_epoch else getattr(scheduler, "step_update", scheduler.step)
    return method


def _required(parameter: inspect.Parameter) -> bool:
    return parameter.default is parameter.empty and parameter.kind not in (
        parameter.VAR_POSITIONAL,
        parameter.VAR_KEYWORD,
    )


def look_up(schedules: Mapping[str, Schedule], metrics: Mapping[str, float] | None) -> dict[str, float]:
    """Optimizer -> the number that its scheduler looks at.

    Raises:
        OptimizerError: there is no such number.
    """
    if not isinstance(metrics, Mapping | None):
        raise OptimizerError(
            f'end_epoch(metrics) must map names to numbers, as in {{"val/digit": 0.3}}; found {shown(metrics)}.'
        )
    found = {}
    for name, schedule in schedules.items():
        if schedule.metric is not None:
            if metrics is None or schedule.metric not in metrics:
                raise OptimizerError(
                    f"The scheduler of optimizer {name!r} looks at {schedule.metric!r}, which end_epoch() was not "
                    f"given. {unknown('metrics', schedule.metric, metrics or ())}"
                )
            found[name] = _number(schedule.metric, metrics[schedule.metric])
    return found


def _number(name: str, value: Any) -> float:
    try:
        if isinstance(value, str | bytes):
            raise TypeError(value)
        return float(value)
    except (RuntimeError, TypeError, ValueError) as error:
        raise OptimizerError(f"metrics[{name!r}] of end_epoch() must be a number; found {shown(value)}.") from error


def check_states(mine: Mapping[str, Schedule], saved: Mapping[str, Any]) -> Collection[str]:
    """What keeps ``saved`` from being loaded."""
    if mine.keys() != saved.keys():
        return [f"The schedulers are those of {quoted(mine)}; the state has {quoted(saved)}."]
    return [
        f"The scheduler of optimizer {name!r} is {kind}; the state is of {saved[name]['kind']}."
        for name, schedule in mine.items()
        if (kind := _kind(schedule.scheduler)) != saved[name]["kind"]
    ]


def _kind(scheduler: Any) -> str:
    """``SequentialLR(LinearLR, CosineAnnealingLR)``."""
    inner = getattr(scheduler, "_schedulers", ())
    return type(scheduler).__name__ + (f"({', '.join(map(_kind, inner))})" if inner else "")
