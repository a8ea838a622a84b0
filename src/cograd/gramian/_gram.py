"""Gram: a Gramian that grows by one layer at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Coefficients = Callable[[Tensor], Tensor]  # a tensor -> the n weights, of its type and on its device


class Gram:
    """Sums Gramians ``[n, n]``, each at least float32, in float64."""

    def __init__(self) -> None:
        self._terms: list[Tensor] = []

    def add(self, rows: Tensor, others: Tensor | None = None) -> None:
        """Add the inner products of ``rows`` ``[n, p]`` with ``others``, or with one another."""
        others = rows if others is None else others
        self._terms.append(torch.mm(rows, others.mH).real if rows.is_complex() else torch.mm(rows, others.T))

    def done(self, n: int) -> Tensor:
        """``[n, n]``, symmetric, on the CPU (one synchronisation per GPU)."""
        kinds: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
        for term in self._terms:
            kinds.setdefault((term.device, term.dtype), []).append(term)
        sums = [torch.stack(terms).sum(0, dtype=torch.float64).cpu() for terms in kinds.values()]
        total = sum(sums, start=sums[0].new_zeros(())) if sums else torch.zeros(n, n, dtype=torch.float64)
        return (total + total.T) / 2


def coefficients(weights: Sequence[float]) -> Coefficients:
    """The ``weights`` as a tensor like another, made once for each kind."""
    made: dict[tuple[torch.dtype, torch.device], Tensor] = {}

    def like(t: Tensor) -> Tensor:
        kind = t.dtype, t.device
        if kind not in made:
            made[kind] = t.new_tensor(weights)
        return made[kind]

    return like


def total(rows: Tensor, like: Coefficients) -> Tensor:
    """The weighted sum of ``rows`` ``[n, ...]``."""
    return torch.mv(rows.flatten(1).T, like(rows)).view(rows.shape[1:])
