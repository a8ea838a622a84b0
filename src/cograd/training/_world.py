"""The random state of the process: Python's, NumPy's and torch's generators, and those of the GPUs."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from cograd.errors import StateError
from cograd.training._generators import numbers, plain


def world_state() -> dict[str, Any]:
    """What the global generators will draw next, as plain tensors, numbers, strings and containers.

    The generators of GPUs are included once CUDA is in use.

    >>> state = world_state()
    >>> drawn = torch.rand(3)
    >>> set_world_state(state)
    >>> torch.equal(drawn, torch.rand(3))
    True
    """
    return {
        "python": random.getstate(),
        "numpy": plain(np.random.get_state(legacy=False)),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
    }


def set_world_state(state: Mapping[str, Any]) -> None:
    """Draw again what was drawn after ``state`` was taken.

    A GPU that the state knows and this process does not have draws nothing here, so its entry is
    left out.

    Raises:
        StateError: it is no ``world_state()``, or a damaged one. Nothing was changed.
    """
    before = world_state()
    try:
        _set(state)
    except (IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        _set(before)
        raise StateError(
            f"This is no random state of a run, or a damaged one (found a {type(state).__name__}; "
            f"{type(error).__name__}: {str(error)[:80]}); nothing was changed. Resume from another checkpoint."
        ) from error


@contextmanager
def kept_world() -> Iterator[None]:
    """Whatever is drawn inside, what is drawn afterwards is as if nothing had been."""
    now = world_state()
    try:
        yield
    finally:
        _set(now)


def _set(state: Mapping[str, Any]) -> None:
    if not isinstance(state["python"][2], float | None):  # which Python itself does not look at
        raise TypeError("the third part of Python's state is a float or None")
    random.setstate(state["python"])
    np.random.set_state(numbers(state["numpy"]))
    torch.set_rng_state(state["torch"])
    for device, own in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(own, device)
