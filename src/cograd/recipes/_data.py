"""Real data that ships inside scikit-learn, split once, and seeded batches of it."""

from __future__ import annotations

from collections.abc import Iterator
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


class Minibatches:
    """Shuffled batches of ``size`` examples, the last incomplete one dropped.

    The order depends on seed and epoch alone, so that a resumed run sees the same batches. ``fit`` sets the epoch.

    >>> batches = Minibatches(torch.arange(10), size=4)
    >>> [len(rows) for (rows,) in batches], len(batches)
    ([4, 4], 2)
    """

    def __init__(self, *tensors: Tensor, size: int, seed: int = 0) -> None:
        self._tensors, self._size, self._seed, self._epoch = tensors, size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Shuffle as for this epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._tensors[0]) // self._size

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        generator = torch.Generator().manual_seed(1000 * self._seed + self._epoch)
        order = torch.randperm(len(self._tensors[0]), generator=generator)
        for rows in order.split(self._size)[: len(self)]:
            yield tuple(t[rows] for t in self._tensors)
