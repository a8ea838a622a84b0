"""Real data that ships inside scikit-learn, split once, and seeded batches of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor


class Split(NamedTuple):
    """Training and test data: features ``[N, ...]`` in float32, and labels or values ``[N]``."""

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor


def load(name: str, seed: int = 0, test: float = 0.3) -> Split:
    """A data set of scikit-learn, shuffled and split.

    Digits are 8x8 grey images flattened to 64 values in [-1, 1]; the features of the others are
    standardised with the training set's mean and deviation. The values of ``diabetes`` are too.

    Args:
        name: ``digits``, ``breast_cancer``, ``wine`` or ``diabetes``.
        seed: of the shuffle.
        test: share of the examples that is held out.

    >>> data = load("wine")
    >>> data.x.shape, data.test_x.shape
    (torch.Size([124, 13]), torch.Size([54, 13]))
    """
    from sklearn import datasets

    bunch = getattr(datasets, f"load_{name}")()
    x = torch.tensor(bunch.data, dtype=torch.float32)
    y = torch.tensor(bunch.target, dtype=torch.float32 if name == "diabetes" else torch.long)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    x, y = x[order], y[order]
    n = int(len(x) * (1 - test))
    x = x / 8 - 1 if name == "digits" else (x - x[:n].mean(0)) / x[:n].std(0)
    if name == "diabetes":
        y = (y - y[:n].mean()) / y[:n].std()
    return Split(x[:n], y[:n], x[n:], y[n:])


def minibatches(*tensors: Tensor, size: int, seed: int = 0) -> Callable[[int], Iterator[tuple[Tensor, ...]]]:
    """For each epoch, shuffled batches of ``size`` examples, the last incomplete one dropped.

    The order depends on seed and epoch alone, so that a resumed run sees the same batches.

    >>> batches = minibatches(torch.arange(10), size=4)
    >>> [len(rows) for (rows,) in batches(0)], all(torch.equal(a, b) for (a,), (b,) in zip(batches(3), batches(3)))
    ([4, 4], True)
    """

    def batches(epoch: int) -> Iterator[tuple[Tensor, ...]]:
        order = torch.randperm(len(tensors[0]), generator=torch.Generator().manual_seed(1000 * seed + epoch))
        for rows in order.split(size):
            if len(rows) == size:
                yield tuple(t[rows] for t in tensors)

    return batches
