"""Gram: a Gramian that grows by one layer at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

Coefficients = Callable[[Tensor], Tensor]  # a tensor -> the n weights, of its type and on its device
Term = Callable[[torch.dtype | None], Tensor]  # the precision to multiply in -> [n, n]; None is that of the gradients

ROUNDING = 1e-4  # the least eigenvalue of the cosines beside which float32 products, good to 1e-7, count as exact
LEAST = 1e-30  # a square that float32 still holds to all its digits
CHUNK = 2**16  # columns that are held in float64 at a time


class Gram:
    """Sums Gramians ``[n, n]`` in float64, each multiplied in float32 as long as that tells gradients apart.

    Nearly parallel or dependent gradients make the solvers divide by a small eigenvalue, and overwhelm
    them with rounding; a square may be out of float32's range. Then every term is computed anew in float64.
    """

    def __init__(self) -> None:
        self._terms: list[Term] = []

    def add(self, term: Term) -> None:
        """Add a term; what it is computed from must not change before :meth:`done`."""
        self._terms.append(term)

    @torch.no_grad()
    def done(self, n: int) -> Tensor:
        """``[n, n]``, symmetric, on the CPU (one synchronisation per GPU, or two)."""
        terms = [term(None) for term in self._terms]
        total = _added(terms, n)
        if any([term.dtype != torch.float64 for term in terms]) and not _distinct(total):
            total = _added([term(torch.float64) for term in self._terms], n)
        return total


def products(rows: Tensor, precision: torch.dtype | None) -> Tensor:
    """``[n, n]``, the real inner products of ``rows`` ``[n, p]``, which are at least float32."""
    if precision is None or rows.dtype in (torch.float64, torch.complex128):
        return _multiplied(rows)
    wide = torch.complex128 if rows.is_complex() else precision
    total = torch.zeros(len(rows), len(rows), dtype=precision, device=rows.device)
    for part in rows.split(CHUNK, dim=1):
        total += _multiplied(part.to(wide))
    return total


def _multiplied(rows: Tensor) -> Tensor:
    return torch.mm(rows, rows.mH).real if rows.is_complex() else torch.mm(rows, rows.T)


def _added(terms: Sequence[Tensor], n: int) -> Tensor:
    kinds: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for term in terms:
        kinds.setdefault((term.device, term.dtype), []).append(term)
    sums = [torch.stack(same).sum(0, dtype=torch.float64).cpu() for same in kinds.values()]
    total = sum(sums, start=sums[0].new_zeros(())) if sums else torch.zeros(n, n, dtype=torch.float64)
    return (total + total.T) / 2


def _distinct(gramian: Tensor) -> bool:
    """Whether rounding in float32 is small beside what tells the gradients apart, and every square in range."""
    matrix = gramian.numpy()
    squares = matrix.diagonal()
    if not (squares >= LEAST).all() or not np.isfinite(matrix).all():
        return False
    lengths = np.sqrt(squares)
    cosines = matrix / lengths / lengths[:, None]
    cosines.flat[:: len(cosines) + 1] -= ROUNDING
    try:
        np.linalg.cholesky(cosines)
    except np.linalg.LinAlgError:
        return False
    return True


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
