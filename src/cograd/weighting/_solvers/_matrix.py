"""What the solvers share: matrices of cosines that are singular, or indefinite by rounding."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

EPS = float(np.finfo(np.float64).eps)
RIDGE = 1e-10  # of a unit diagonal: makes a singular system solvable, and its solution unique


def length(cosines: Array, z: Array) -> float:
    """The norm of the combination z of unit vectors."""
    return math.sqrt(max(float(z @ cosines @ z), 0.0))


def vanishes(cosines: Array, z: Array, share: float = 1e-12) -> bool:
    """Whether the combination z of unit vectors is zero up to what their products can tell."""
    return float(z @ cosines @ z) <= share * float(z @ z)


def semidefinite(cosines: Array) -> Array:
    """``cosines`` itself if it is positive semidefinite up to rounding, else the nearest such matrix."""
    if len(cosines) == 2 and abs(cosines[0, 1]) <= 1:
        return cosines
    ridged = cosines.copy()
    ridged.flat[:: len(cosines) + 1] += RIDGE
    try:
        np.linalg.cholesky(ridged)
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(cosines)
        nearest: Array = (vectors * values.clip(0)) @ vectors.T
        return nearest
    return cosines


def equal_products(cosines: Array) -> Array:
    """The smallest z for which ``cosines @ z`` is as near to all ones as it can be."""
    ones = np.ones(len(cosines))
    z: Array
    try:
        z = np.asarray(np.linalg.solve(cosines, ones), np.float64)
    except np.linalg.LinAlgError:
        pass
    else:
        if np.abs(z).max() < 1e5:
            return z
    values, vectors = np.linalg.eigh(cosines)
    kept = values > RIDGE * len(cosines)
    basis: Array = vectors[:, kept]
    smallest: Array = basis @ ((basis.T @ ones) / values[kept])
    return smallest
