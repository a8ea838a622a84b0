"""The random numbers of torch, as a step found them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

RandomState = tuple[Tensor, list[Tensor]]


def random_state() -> RandomState:
    """The state of torch's generators: the CPU's, and each GPU's if any was used."""
    return torch.get_rng_state(), torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []


@contextmanager
def replayed(state: RandomState) -> Iterator[None]:
    """Draw the same numbers again, then go on as if nothing had been drawn."""
    now = random_state()
    try:
        rewind(state)
        yield
    finally:
        rewind(now)


def rewind(state: RandomState) -> None:
    """Draw from now on what was drawn after ``state``."""
    torch.set_rng_state(state[0])
    if state[1]:
        torch.cuda.set_rng_state_all(state[1])
