"""Where an error in the user's losses was raised: in which phase, loss and line, and on what batch."""

from __future__ import annotations

import dataclasses
import linecache
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from torch import Tensor

from cograd.errors import CogradError

BATCH = "The batch is "  # how notes begin
_HERE = "This was in "

_MANY, _DEEP = 6, 3


def tell(error: BaseException, where: str, losses: Any, batch: Any) -> None:
    """Note in ``error`` where it was raised, unless it says so already, as those of cograd do.

    Args:
        error: what the evaluation of the losses, or the step after it, has raised.
        where: in words.
        losses: the losses function.
        batch: what it was given.
    """
    if isinstance(error, CogradError) or not isinstance(error, Exception):
        return
    if any(note.startswith(_HERE) for note in getattr(error, "__notes__", ())):  # it was raised in prepare
        return
    frames = list(_frames(error))
    names = [frame.f_locals["name"] for frame, _ in frames if frame.f_globals.get("__name__") == "cograd._losses"]
    loss = f", in loss {names[-1]!r}" if names else ""
    error.add_note(f"{_HERE}{where}{loss}{_line(frames, losses)}.")
    error.add_note(f"{BATCH}{described(batch)}.")


def _frames(error: BaseException) -> Iterator[tuple[FrameType, int]]:
    trace = error.__traceback__
    while trace is not None:
        yield trace.tb_frame, trace.tb_lineno
        trace = trace.tb_next


def _line(frames: list[tuple[FrameType, int]], losses: Any) -> str:
    """The last line that was reached in the file of the losses function."""
    while isinstance(losses, partial):
        losses = losses.func
    file = getattr(getattr(losses, "__code__", None), "co_filename", None)
    lines = [line for frame, line in frames if frame.f_code.co_filename == file]
    if file is None or not lines:
        return ""
    text = linecache.getline(file, lines[-1]).strip()
    return f", at {Path(file).name}:{lines[-1]}{f': {text}' if text else ''}"


def described(batch: Any, depth: int = 0) -> str:
    """What a batch is made of: types and shapes, no numbers.

    >>> described({"x": torch.zeros(32, 8), "y": (torch.zeros(32).long(), None)})
    '{x: float32 [32, 8], y: (int64 [32], None)}'
    """
    if isinstance(batch, Tensor):
        return f"{str(batch.dtype).removeprefix('torch.')} {list(batch.shape)}"
    if isinstance(batch, np.ndarray):
        return f"{batch.dtype} array {list(batch.shape)}"
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
