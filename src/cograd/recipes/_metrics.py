"""How well it went, as numbers that a person understands, and what the trivial answer would get."""

from __future__ import annotations

import torch
from torch import Tensor


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """The share of ``labels`` ``[N]`` that have the highest of the ``logits`` ``[N, classes]``.

    >>> accuracy(torch.tensor([[2.0, 1.0], [0.0, 3.0]]), torch.tensor([0, 0]))
    0.5
    """
    return float((logits.argmax(1) == labels).float().mean())


def majority(labels: Tensor, test_labels: Tensor) -> float:
    """The accuracy of always giving the most common of ``labels`` for ``test_labels``.

    >>> majority(torch.tensor([1, 1, 0]), torch.tensor([1, 0, 0, 0]))
    0.25
    """
    return float((test_labels == labels.mode().values).float().mean())


def rmse(predicted: Tensor, values: Tensor) -> float:
    """The root of the mean squared error, in the unit of ``values``.

    >>> rmse(torch.tensor([1.0, 1.0]), torch.tensor([3.0, 3.0]))
    2.0
    """
    return float((predicted - values).square().mean().sqrt())


def likeness(fakes: Tensor, real: Tensor, held_out: Tensor) -> float:
    """The share of fakes like a real example, or of held-out examples like a fake: the lower of both.

    The first share is their realism, the second their variety. Two examples ``[D]`` are alike if they
    are as close as 95 in 100 of ``held_out`` are to their nearest in ``real``.

    References:
        A coarser form of Kynkäänniemi et al., Improved Precision and Recall Metric for Assessing
        Generative Models, NeurIPS 2019, https://arxiv.org/abs/1904.06991.
    """
    near = torch.cdist(held_out, real).amin(1).quantile(0.95)
    precision = (torch.cdist(fakes, real).amin(1) <= near).float().mean()
    recall = (torch.cdist(held_out, fakes).amin(1) <= near).float().mean()
    return min(float(precision), float(recall))
