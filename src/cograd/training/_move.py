"""A batch on another device, whatever it is made of."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Mapping, MutableMapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from cograd.errors import TrainingError, shown


def move(batch: Any, device: torch.device | str | int, non_blocking: bool = True) -> Any:
    """The batch with its tensors on ``device``, in containers of the same types.

    Looks into mappings, lists, tuples (named ones too), dataclasses (frozen ones too) and
    ``SimpleNamespace``, and calls ``.to(device)`` of what else has it. All other things stay as
    they are. What already is on the device is returned itself, not a copy: the batch too, if
    nothing of it has to move.

    Args:
        batch: anything.
        device: where to.
        non_blocking: copy from pinned memory while the program goes on. Never done on the way to
            the CPU, where a tensor could be read before it has arrived.

    Raises:
        TrainingError: there is no such device.

    >>> batch = {"x": torch.zeros(2), "names": ["a", "b"]}
    >>> move(batch, "cpu") is batch
    True
    >>> move(batch, "meta")
    {'x': tensor(..., device='meta', size=(2,)), 'names': ['a', 'b']}
    """
    if not isinstance(non_blocking, bool):
        raise TrainingError(f"non_blocking must be True or False; found {shown(non_blocking)}.")
    device = _device(device)
    return _moved(batch, device, non_blocking and device.type != "cpu")


def _device(device: torch.device | str | int) -> torch.device:
    try:
        return torch.device(device)
    except (RuntimeError, TypeError, ValueError) as error:
        raise TrainingError(f"device must be a device of torch, such as 'cuda:0'; found {shown(device)}.") from error


def _moved(batch: Any, device: torch.device, non_blocking: bool) -> Any:
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=non_blocking)
    if isinstance(batch, (str, bytes, int, float, type, type(None))):
        return batch
    if callable(getattr(batch, "to", None)):
        return batch.to(device)
    parts = _parts(batch)
    changed = {
        key: new for key, old in parts for new in (_moved(old, device, non_blocking),) if new is not old
    }  # fmt: skip
    return _with(batch, changed) if changed else batch


def _parts(batch: Any) -> Iterable[tuple[Any, Any]]:
    """What a container holds, with the key or name or place of each."""
    if isinstance(batch, Mapping):
        return batch.items()
    if isinstance(batch, (list, tuple)):
        return enumerate(batch)
    if isinstance(batch, SimpleNamespace):
        return vars(batch).items()
    if dataclasses.is_dataclass(batch):
        return [(f.name, getattr(batch, f.name)) for f in dataclasses.fields(batch) if hasattr(batch, f.name)]
    return ()


def _with(batch: Any, changed: Mapping[Any, Any]) -> Any:
    """A copy of the container with other parts in some places."""
    if isinstance(batch, tuple):
        parts = [changed.get(i, part) for i, part in enumerate(batch)]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    if isinstance(batch, Mapping) and not isinstance(batch, MutableMapping):
        return type(batch)({**batch, **changed})  # type: ignore[call-arg]  # as MappingProxyType takes it
    new = copy.copy(batch)
    for key, part in changed.items():
        if isinstance(batch, (MutableMapping, list)):
            new[key] = part
        else:
            object.__setattr__(new, key, part)  # a frozen dataclass refuses setattr
    return new
