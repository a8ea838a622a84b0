"""Schedules: learning rates that change with the updates of an optimizer, or with the epochs."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, final

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from cograd._optimizers import REST, optimizers_named
from cograd.errors import OptimizerError, PartialStepError, quoted, report, unknown

Scheduler = LRScheduler | Callable[[Optimizer], LRScheduler]


@final
@dataclass(frozen=True, slots=True)
class EachEpoch:
    """Advance a scheduler by epochs, at :meth:`cograd.Joint.end_epoch`, rather than by batches.

    Args:
        scheduler: a scheduler, or a function from the optimizer to one.
        metric: the name of the number that it looks at, for ``ReduceLROnPlateau``.

    >>> from functools import partial
    >>> plateau = EachEpoch(partial(torch.optim.lr_scheduler.ReduceLROnPlateau, patience=3), metric="val/digit")
    """

    scheduler: Any
    metric: str | None = None


Schedulers = Scheduler | EachEpoch | Mapping[str, Scheduler | EachEpoch]


class Schedule:
    """One scheduler, advanced only where its optimizer has stepped.

    Attributes:
        scheduler: torch's.
        each_epoch: whether it counts epochs; else batches.
        metric: the number that it looks at, if any.
    """

    def __init__(self, scheduler: Any, each_epoch: bool, metric: str | None) -> None:
        self.scheduler, self.each_epoch, self.metric = scheduler, each_epoch, metric
        self._stepped = False  # the optimizer, since the last advance

    def stepped(self) -> None:
        """The optimizer has stepped."""
        self._stepped = True

    def advance(self, optimizer: str, value: float | None = None) -> None:
        """A batch, or an epoch, is over.

        Args:
            optimizer: the name of the one that it schedules.
            value: the number that it looks at.

        Raises:
            PartialStepError: the scheduler failed, after the step of its optimizer.
        """
        if not self._stepped:
            return
        self._stepped = False
        try:
            self.scheduler.step(*(() if value is None else (value,)))
        except Exception as error:
            raise PartialStepError(
                f"the scheduler of optimizer {optimizer!r}", [optimizer], error, after=True
            ) from error

    def state_dict(self) -> dict[str, Any]:
        """What torch's scheduler saves, and whether the optimizer has stepped since it advanced."""
        return {"kind": _kind(self.scheduler), "stepped": self._stepped, "scheduler": self.scheduler.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state``."""
        self._stepped = state["stepped"]
        self.scheduler.load_state_dict(copy.deepcopy(state["scheduler"]))


def build_schedules(schedulers: Any, optimizers: Mapping[str, Optimizer]) -> dict[str, Schedule]:
    """Optimizer -> its schedule.

    Raises:
        OptimizerError: lists every entry that does not hold.
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
            problems.append(f"schedulers[{name!r}] names no optimizer. {unknown('optimizers', name, optimizers)}")
    for name, entry in chosen.items():
        each = entry if isinstance(entry, EachEpoch) else None
        made: Any = each.scheduler if each else entry
        if callable(made) and not hasattr(made, "optimizer"):
            made = made(optimizers[name])
        if not all(hasattr(made, part) for part in ("step", "state_dict", "load_state_dict", "optimizer")):
            problems.append(
                f"schedulers[{name!r}] is a scheduler or a function from the optimizer to one, as in "
                f"partial(CosineAnnealingLR, T_max=1000); found {type(made).__name__}."
            )
            continue
        if made.optimizer is not optimizers[name]:
            problems.append(f"schedulers[{name!r}] schedules another optimizer than optimizers[{name!r}].")
        metric = each.metric if each else None
        needs = "metrics" in inspect.signature(made.step).parameters
        if needs and metric is None:
            problems.append(
                f"schedulers[{name!r}], a {type(made).__name__}, looks at a number: "
                'cograd.EachEpoch(..., metric="val/loss").'
            )
        if metric is not None and not needs:
            problems.append(f"schedulers[{name!r}], a {type(made).__name__}, looks at no number: leave out the metric.")
        built[name] = Schedule(made, each is not None, metric)
    if problems:
        raise OptimizerError(report(problems))
    return built


def look_up(schedules: Mapping[str, Schedule], metrics: Mapping[str, float] | None) -> dict[str, float]:
    """Optimizer -> the number that its scheduler looks at.

    Raises:
        OptimizerError: there is no such number.
    """
    found = {}
    for name, schedule in schedules.items():
        if schedule.metric is not None:
            if metrics is None or schedule.metric not in metrics:
                raise OptimizerError(
                    f"The scheduler of optimizer {name!r} looks at {schedule.metric!r}, which end_epoch() was not "
                    f"given. {unknown('metrics', schedule.metric, metrics or ())}"
                )
            found[name] = float(metrics[schedule.metric])
    return found


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
