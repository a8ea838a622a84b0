"""Flags: evaluate with the gradients of parameters off, unless a loss differentiates at one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from torch import Tensor

from cograd._random import random_state, rewind
from cograd.errors import CogradError

T = TypeVar("T")


def without_gradients(parameters: Iterable[Tensor], evaluate: Callable[[], T]) -> T:
    """``evaluate()`` with ``parameters`` frozen; once more with their flags as they are if it differentiates at one."""
    thawed = [p for p in parameters if p.requires_grad]
    rng = random_state()
    try:
        for p in thawed:
            p.requires_grad = False
        return evaluate()
    except RuntimeError as error:
        if not differentiates_at_frozen(error):
            raise
    finally:
        for p in thawed:
            p.requires_grad = True
    rewind(rng)
    return evaluate()


def differentiates_at_frozen(error: RuntimeError) -> bool:
    """Is it the one of torch for a gradient at what does not require grad?"""
    return not isinstance(error, CogradError) and "does not require grad" in str(error)
