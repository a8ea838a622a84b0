"""Optimizers that keep other weights for evaluation than for training, as schedule-free ones do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

import torch
from torch import nn
from torch.optim import Optimizer

from cograd.errors import OptimizerError

_KNOWN: WeakSet[Optimizer] = WeakSet()  # in use in a Joint, so that a single model can be exported with their weights


def switchable(optimizers: Iterable[Optimizer]) -> list[Any]:
    """Those with ``eval()`` and ``train()``."""
    return [o for o in optimizers if callable(getattr(o, "eval", None)) and callable(getattr(o, "train", None))]


def in_training(optimizer: Any) -> bool:
    """Whether the parameters hold the weights of training."""
    flag = getattr(optimizer, "train_mode", None)
    return any(group.get("train_mode", True) for group in optimizer.param_groups) if flag is None else bool(flag)


def check_in_training(optimizers: Mapping[str, Any]) -> None:
    """Raises OptimizerError if a step would move the weights for evaluation."""
    for name, optimizer in optimizers.items():
        if not in_training(optimizer):
            raise OptimizerError(
                f"optimizer {name!r} must be in train mode for a step; it is in eval mode, where the parameters hold "
                "the weights for evaluation. Call joint.train() first, or the train() of the optimizer."
            )


def remember(optimizers: Iterable[Optimizer]) -> None:
    """A Joint uses them."""
    _KNOWN.update(optimizers)


def switchable_of(model: nn.Module) -> list[Optimizer]:
    """Those in use in a Joint that train a part of ``model``."""
    own = set(map(id, model.parameters()))
    return [o for o in _KNOWN if any(id(p) in own for group in o.param_groups for p in group["params"])]


@contextmanager
def evaluation_weights(optimizers: Iterable[Optimizer]) -> Iterator[None]:
    """The weights for evaluation, where there are such. Then those of training, to the last bit."""
    switched = [o for o in switchable(optimizers) if in_training(o)]
    parameters = [p for o in switched for group in o.param_groups for p in group["params"]]
    kept = [p.detach().clone() for p in parameters]  # going there and back rounds
    try:
        for o in switched:
            o.eval()
        yield
    finally:
        for o in switched:
            o.train()
        with torch.no_grad():
            for p, value in zip(parameters, kept, strict=True):
                p.copy_(value)
