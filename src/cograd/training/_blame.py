"""When a batch does not go through: which one it was, and what is in it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from cograd.errors import BatchError, CogradError

_MANY, _DEEP = 6, 3


def blame(error: Exception, batch: Any, where: str) -> None:
    """Say in which batch ``error`` was raised. Errors of cograd and of others' making keep their type.

    Args:
        error: what a step, or a look at the losses, has raised.
        batch: on which.
        where: in words.

    Raises:
        BatchError: ``error`` is one of Python's or torch's own, which says nothing of the batch.
    """
    told = f"{where}; the batch is {described(batch)}."
    if isinstance(error, CogradError) or type(error).__module__ != "builtins":
        error.add_note(f"This was in {told}")
        return
    raise BatchError(
        f"The losses cannot be computed and differentiated in {told} {type(error).__name__}: {error}. The lines are "
        "above. Check that the loader gives what the losses function takes."
    ) from error


def described(batch: Any, depth: int = 0) -> str:
    """What a batch is made of: types and shapes, no numbers.

    >>> described({"x": torch.zeros(32, 8), "y": (torch.zeros(32).long(), None)})
    '{x: float32 [32, 8], y: (int64 [32], None)}'
    """
    if isinstance(batch, Tensor):
        return f"{str(batch.dtype).removeprefix('torch.')} {list(batch.shape)}"
    if batch is None or isinstance(batch, bool | int | float):
        return repr(batch)
    if isinstance(batch, Mapping):
        parts, ends = [f"{key}: {_part(value, depth)}" for key, value in list(batch.items())[:_MANY]], "{}"
    elif isinstance(batch, tuple | list):
        parts, ends = [_part(value, depth) for value in batch[:_MANY]], "()" if isinstance(batch, tuple) else "[]"
    elif dataclasses.is_dataclass(batch):
        names = [f.name for f in dataclasses.fields(batch)][:_MANY]
        parts, ends = [f"{name}={_part(getattr(batch, name, None), depth)}" for name in names], "()"
    else:
        return f"of type {type(batch).__name__}"
    more = [f"{len(batch) - _MANY} more"] if hasattr(batch, "__len__") and len(batch) > _MANY else []
    return f"{ends[0]}{', '.join(parts + more)}{ends[1]}"


def _part(value: Any, depth: int) -> str:
    return "..." if depth == _DEEP else described(value, depth + 1)
