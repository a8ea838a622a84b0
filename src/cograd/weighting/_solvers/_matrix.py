"""What the solvers share: matrices of cosines that are singular, or indefinite by rounding."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

EPS = float(np.finfo(np.float64).eps)
REGULAR = 1e-6  # a least eigenvalue of unit vectors' products that leaves ten digits to what is divided by it
FLAT = 1e-8  # of the squared lengths: rounding of float32 gradients cannot tell less from zero
SHORTEST = 1e-20  # beside the longest gradient: what is shorter has no digit in common with it
NOTHING = 1e-10  # of the squared parts: a combination as short as that has cancelled


def length(cosines: Array, z: Array) -> float:
    """The norm of the combination z of unit vectors."""
    return math.sqrt(max(float(z @ cosines @ z), 0.0))


def within_range(norms: Array) -> Array:
    """Lengths whose ratios and their squares can be computed with: for those far below all others a longer one."""
    longer: Array = np.maximum(norms, SHORTEST * norms.max())
    return longer


def vanishes(cosines: Array, z: Array, share: float = NOTHING) -> bool:
    """Whether the combination z of unit vectors is zero up to what their products can tell."""
    return float(z @ cosines @ z) <= share * float(z @ z)


def independent(cosines: Array) -> bool:
    """Whether the unit vectors are far from dependent, so that systems of their products can simply be solved."""
    if len(cosines) == 2:
        return bool(abs(cosines[0, 1]) <= 1 - REGULAR)
    shifted = cosines.copy()
    shifted.flat[:: len(cosines) + 1] -= REGULAR
    try:
        np.linalg.cholesky(shifted)
    except np.linalg.LinAlgError:
        return False
    return True


def semidefinite(cosines: Array) -> Array:
    """``cosines`` itself if it is positive semidefinite up to rounding, else the nearest such matrix."""
    if len(cosines) == 2 and abs(cosines[0, 1]) <= 1:
        return cosines
    raised = cosines.copy()
    raised.flat[:: len(cosines) + 1] += 1e-12
    try:
        np.linalg.cholesky(raised)
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(cosines)
        nearest: Array = (vectors * values.clip(0)) @ vectors.T
        return nearest
    return cosines


def equal_products(cosines: Array) -> Array:
    """The smallest z for which ``cosines @ z`` is as near to all ones as it can be."""
    ones = np.ones(len(cosines))
    z: Array
    if independent(cosines):
        z = np.asarray(np.linalg.solve(cosines, ones), np.float64)
        return z
    values, vectors = np.linalg.eigh(cosines)
    kept = values > 10 * FLAT  # each is divided by, and nine digits are to be left
    basis: Array = vectors[:, kept]
    z = basis @ ((basis.T @ ones) / values[kept])
    return z
