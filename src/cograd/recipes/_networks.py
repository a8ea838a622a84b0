"""The network that most recipes use, and how to ask trained models for predictions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise

import torch
from torch import nn

from cograd import Joint, Models


def mlp(*sizes: int, activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    """Linear layers from each of ``sizes`` to the next, with the activation between them.

    >>> mlp(64, 128, 10)
    Sequential(
      (0): Linear(in_features=64, out_features=128, bias=True)
      (1): ReLU()
      (2): Linear(in_features=128, out_features=10, bias=True)
    )
    """
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), activation()]
    return nn.Sequential(*layers[:-1])


@contextmanager
def predicting(joint: Joint) -> Iterator[Models]:
    """The models in eval mode and without gradients. Their modes are put back afterwards.

    >>> from cograd.recipes import build
    >>> joint = build("fusion").joint
    >>> with predicting(joint) as models:
    ...     models.fusion.training
    False
    >>> joint.models.fusion.training
    True
    """
    with joint.evaluating() as models, torch.no_grad():
        yield models
