"""What ``torch.load(..., weights_only=True)`` reads, so that opening a checkpoint runs nobody's code."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator
from types import NoneType
from typing import Any

import torch
from torch import Tensor, nn

from cograd.errors import shown

_LEAVES = {NoneType, bool, int, float, complex, str, bytes, bytearray}
_LEAVES |= {torch.Size, torch.device, torch.dtype, torch.layout}
_MAPPINGS = {dict, OrderedDict, Counter}
_SEQUENCES = {list, tuple, set}
_TENSORS = {Tensor, nn.Parameter}


def strangers(value: Any, where: str) -> Iterator[str]:
    """The places in ``value`` that are no plain tensor, number, string or container, and what is there instead.

    >>> list(strangers({"a": [1, None], "b": (torch.zeros(2), nn.ReLU())}, "state"))
    ["state['b'][1] (torch.nn.modules.activation.ReLU)"]
    """
    return _strangers(value, where, set())


def _strangers(value: Any, where: str, seen: set[int]) -> Iterator[str]:
    kind = type(value)  # exactly: a subclass (of NumPy's float, of a NamedTuple) is loaded by its own code
    if kind in _LEAVES:
        return
    if kind not in _MAPPINGS | _SEQUENCES | _TENSORS:
        yield f"{where} ({kind.__module__}.{kind.__qualname__})"
        return
    if id(value) in seen:
        return
    seen.add(id(value))
    if kind in _MAPPINGS:
        for key, item in value.items():
            yield from _strangers(key, f"the key {shown(key)} of {where}", seen)
            yield from _strangers(item, f"{where}[{shown(key)}]", seen)
    elif kind in _SEQUENCES:
        for i, item in enumerate(value):
            yield from _strangers(item, f"{where}[{i}]", seen)
    for name, item in getattr(value, "__dict__", {}).items():  # of a tensor, or state_dict()._metadata
        yield from _strangers(item, f"{where}.{name}", seen)
