"""Projection onto the dual cone of K gradients: the directions that none of them opposes."""

from __future__ import annotations

import numpy as np

from cograd.weighting._solvers._complement import complements
from cograd.weighting._solvers._matrix import NOTHING, Array, semidefinite


def onto_dual_cone(cosines: Array, vectors: Array) -> Array:
    r"""The nearest points without a negative product with any of the K unit gradients.

    Each row :math:`z` becomes :math:`z + x` with :math:`x \ge 0,\ C (z + x) \ge 0,\ x^T C (z + x) = 0`.
    A projection that is zero up to rounding is exactly zero.

    Args:
        cosines: ``[K, K]``, C, between the gradients.
        vectors: ``[R, K]``, coefficients of the unit gradients.

    Raises:
        ConvergenceError: as :func:`complements`.
    """
    projected = vectors
    if (vectors @ cosines < 0).any():
        cosines = semidefinite(cosines)
        size = np.abs(vectors).max(axis=1, keepdims=True)
        sides = vectors @ cosines / size
        two = len(cosines) == 2 and (vectors >= 0).all()  # at most one of them is opposed
        moved = (-sides).clip(0) if two else complements(cosines, sides)
        projected = vectors + moved * size
    squares, parts = ((projected @ cosines) * projected).sum(axis=1), (projected**2).sum(axis=1)
    nothing = squares <= NOTHING * parts + 1e-18 * (vectors**2).sum(axis=1)
    return np.where(nothing[:, None], 0.0, projected)
