"""A closure for an optimizer that may begin with the gradients that are there, or with the closure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def begun(objective: Callable[[], T], parameters: Sequence[Tensor]) -> Callable[[], T]:
    """Evaluate and differentiate ``objective`` once, before the optimizer steps.

    Args:
        objective: fills ``.grad`` of the parameters.
        parameters: those that the optimizer moves.

    Returns:
        A closure. As long as neither the parameters nor their gradients have changed it gives the same value again, for
        optimizers that begin with it; then it evaluates anew.
    """
    first = [objective()]
    seen = [(p, p.detach().clone(), p.grad, _version(p.grad)) for p in parameters]

    def closure() -> T:
        if first:
            value = first.pop()
            if all([p.grad is g and _version(g) == version and torch.equal(p, then) for p, then, g, version in seen]):
                return value
        with torch.enable_grad():
            return objective()

    return closure


def _version(gradient: Tensor | None) -> int:
    return -1 if gradient is None else gradient._version
