"""The contract of all engines: gradients that arrive at what losses share -> their Gramian."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cograd.gramian._cut import Cut
from cograd.gramian._scope import Component

Gradients = list[tuple[Tensor, Tensor]]  # parameters and their gradients


@dataclass(frozen=True, slots=True)
class Measured:
    """What an engine found out about one component of n losses.

    Attributes:
        gramian: ``[n, n]`` float64 on the CPU, the inner products of the losses' gradients.
        combine: n weights -> the weighted gradient of each parameter that the losses share. To be
            called once: what it was made of is let go on the way.
        how: the engine that did it.
        rows: the shared parameters and the n gradients of each, ``[n, p]``, if the engine has them;
            ``[n, ...]`` if they are sparse.
        aside: leaves that are not compared, and the plain sum of the n gradients of each.
    """

    gramian: Tensor
    combine: Callable[[Sequence[float]], Gradients]
    how: str
    rows: Sequence[tuple[Tensor, Tensor]] = ()
    aside: Sequence[tuple[Tensor, Tensor]] = ()

    def abs(self) -> Tensor:
        """``[n, 2]`` float64 on the CPU: the largest and the mean magnitude in each loss's gradient."""
        if not self.rows:  # Functions that gave no gradient
            return torch.zeros(len(self.gramian), 2, dtype=torch.float64)
        magnitudes = [_dense(rows).abs() for _, rows in self.rows]
        largest = torch.stack([m.amax(1) for m in magnitudes]).amax(0)
        total = torch.stack([m.sum(1, dtype=torch.float64) for m in magnitudes]).sum(0)
        return torch.stack([largest.double(), total / sum(m.shape[1] for m in magnitudes)], dim=1).cpu()

    def jacobian(self) -> Tensor:
        """``[n, P]``, the gradients on all shared parameters."""
        none = self.gramian.new_zeros(len(self.gramian), 0)
        return torch.cat([_dense(rows) for _, rows in self.rows], dim=1) if self.rows else none

    def split(self, gradient: Tensor) -> Gradients:
        """``[P]``, as in :meth:`jacobian`, as the gradient of each parameter."""
        parts = gradient.split([leaf.numel() for leaf, _ in self.rows])
        return [(leaf, part.view_as(leaf).to(leaf.dtype)) for (leaf, _), part in zip(self.rows, parts, strict=True)]


class Engine(ABC):
    """A way to compute the Gramian of the gradients that losses have on what they share."""

    __slots__ = ()

    @abstractmethod
    def measure(self, cut: Cut, component: Component, keep: bool = False) -> Measured:
        """The Gramian of ``component``.

        Args:
            cut: the gradients that arrive at the common part.
            component: losses and the parameters that they share.
            keep: whether the graph is still needed afterwards.
        """


def _dense(rows: Tensor) -> Tensor:
    return rows.to_dense().flatten(1) if rows.is_sparse else rows
