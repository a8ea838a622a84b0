"""What the script asks for where a state that is loaded goes on with something else: rates and other settings."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from cograd._schedules import Schedule
from cograd.errors import shown

Settings = dict[str, dict[str, Any]]  # optimizer, group or scheduler, for people -> its settings by name


class Asked:
    """The settings of optimizers and schedulers as they were when the Joint was made.

    A learning rate that a scheduler or a callback has changed since is no difference to the script.

    Attributes:
        running: those of the script with which the state in use began: of this one, or of the one that was loaded.
    """

    def __init__(self, optimizers: Mapping[str, Optimizer]) -> None:
        self._here: Settings = {}
        for name, optimizer in optimizers.items():
            for i, group in enumerate(optimizer.param_groups):
                where = f", group {i}" if len(optimizer.param_groups) > 1 else ""
                kept = {
                    key: value for key, value in group.items() if key not in ("params", "param_names", "initial_lr")
                }
                self._here[f"optimizer {name!r}{where}"] = _plain(kept)
        self.running = copy.deepcopy(self._here)

    def add(self, schedules: Mapping[str, Schedule]) -> None:
        """The schedulers, which are made later."""
        for name, schedule in schedules.items():
            self._here[f"the scheduler of optimizer {name!r}"] = _plain(dict(_of(schedule.scheduler)))
        self.running = copy.deepcopy(self._here)

    def load(self, running: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
        """Go on with the settings of a state; a sentence for each that is another here."""
        self.running = {where: dict(settings) for where, settings in running.items()}
        for where, settings in self._here.items():
            there = running.get(where, {})
            for key, value in settings.items():
                if key in there and there[key] != value:
                    yield (
                        f"{where} was made with {key}={shown(there[key])} where the state was taken, and with "
                        f"{key}={shown(value)} here: that of the state goes on. To change it, set it after loading."
                    )


def _of(scheduler: Any) -> Iterator[tuple[str, Any]]:
    for key, value in scheduler.state_dict().items():
        if not key.startswith("_") and key not in ("last_epoch", "base_lrs"):  # a count; what the optimizer has as lr
            yield key, value
    for i, inner in enumerate(getattr(scheduler, "_schedulers", ())):
        yield from ((f"{i}.{key}", value) for key, value in _of(inner))


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What can be compared and saved: numbers, strings, and containers of them."""
    found = {}
    for key, value in settings.items():
        number = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
        if _comparable(number):
            found[key] = dict(number) if isinstance(number, Mapping) else number
    return copy.deepcopy(found)


def _comparable(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_comparable, value))
    if isinstance(value, Mapping):
        return all(map(_comparable, (*value, *value.values())))
    return value is None or type(value) in (bool, int, float, str)
