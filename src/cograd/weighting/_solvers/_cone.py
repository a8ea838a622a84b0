"""Projection onto the dual cone of K gradients: the directions that none of them opposes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cograd.errors import ConvergenceError
from cograd.weighting._solvers._matrix import EPS, RIDGE, Array, semidefinite

CONFLICT = 1e-8  # the cosine that still counts as none


def onto_dual_cone(cosines: Array, vectors: Array) -> Array:
    r"""The nearest points without a negative product with any of the K unit gradients.

    Each row :math:`z` becomes :math:`z + x` with :math:`x \ge 0,\ C (z + x) \ge 0,\ x^T C (z + x) = 0`.
    Principal pivoting solves it; a row that it leaves unsolved, or in conflict, goes to an active
    set. A projection that is zero up to rounding is exactly zero.

    Args:
        cosines: ``[K, K]``, C, between the gradients.
        vectors: ``[R, K]``, coefficients of the unit gradients.

    Raises:
        ConvergenceError: the active set did not end.
    """
    if not (vectors @ cosines < 0).any():
        return vectors
    cosines = semidefinite(cosines)
    size = np.abs(vectors).max(axis=1, keepdims=True)
    sides = vectors @ cosines / size
    if len(cosines) == 2 and (vectors >= 0).all():  # at most one of the two is opposed
        moved, solved = (-sides).clip(0), np.ones(len(vectors), dtype=bool)
    else:
        ridged = cosines.copy()
        ridged.flat[:: len(cosines) + 1] += RIDGE
        moved, solved = _pivot_rows(ridged, sides)
    projected: Array = vectors + moved * size
    products = projected @ cosines
    squares, parts = (products * projected).sum(axis=1), (projected**2).sum(axis=1)
    opposed = -products.min(axis=1) > CONFLICT * np.sqrt(np.maximum(squares, 1e-12 * parts))
    if (opposed | ~solved).any():
        for row in np.flatnonzero(opposed | ~solved):
            projected[row] = vectors[row] + size[row] * _active_set(cosines, sides[row])
        squares, parts = ((projected @ cosines) * projected).sum(axis=1), (projected**2).sum(axis=1)
    projected[squares <= 1e-12 * parts + 1e-18 * (vectors**2).sum(axis=1)] = 0
    return projected


def _pivot_rows(matrix: Array, sides: Array) -> tuple[Array, NDArray[np.bool_]]:
    """The solution of :func:`pivot` for each row of sides, all at once; and which rows are solved."""
    rows, n = sides.shape
    x, solved = np.zeros((rows, n)), np.ones(rows, dtype=bool)
    free = np.asarray(sides < 0)
    todo = np.flatnonzero(free.any(axis=1))
    if n > 3 and rows > 1:
        identity = np.eye(n)
        for _ in range(8):
            if not len(todo):
                break
            inside, side = free[todo], sides[todo]
            systems = np.where(inside[:, :, None] & inside[:, None, :], matrix, identity)
            now = np.linalg.solve(systems, np.where(inside, -side, 0.0)[:, :, None])[:, :, 0]
            x[todo] = now
            wrong = np.where(inside, now < 0, now @ matrix + side < -4 * n * EPS * (1 + np.abs(now).max()))
            free[todo] = inside ^ wrong
            todo = todo[wrong.any(axis=1)]
    for row in todo:
        x[row], solved[row] = pivot(matrix, sides[row])
    return x, solved


def pivot(matrix: Array, side: Array) -> tuple[Array, bool]:
    """The x >= 0 with M x + q >= 0 and one of both 0, and whether it was found, by block pivoting.

    All wrong signs are exchanged at once; if that does not help for three rounds, the last of them
    alone (Júdice and Pires), which ends on a positive definite M.
    """
    n = len(side)
    free = np.asarray(side < 0)
    fewest, tries = n + 1, 3
    x = np.zeros(n)
    for _ in range(5 * n + 10):
        inside = free.nonzero()[0]
        x = np.zeros(n)
        x[inside] = np.linalg.solve(matrix[inside[:, None], inside], -side[inside])
        slack = matrix @ x + side
        wrong = np.where(free, x < 0, slack < -4 * n * EPS * (1 + np.abs(x).max()))
        count = int(np.count_nonzero(wrong))
        if count == 0:
            return x, True
        tries = 3 if count < fewest else tries - 1
        fewest = min(count, fewest)
        if tries >= 0:
            free = free ^ wrong
        else:
            free[wrong.nonzero()[0][-1]] ^= True
    return x.clip(0), False


def _active_set(cosines: Array, side: Array) -> Array:
    """The same for one row, by the active set of Lawson and Hanson, which ends on any semidefinite C."""
    n = len(side)
    x = np.zeros(n)
    free = np.zeros(n, dtype=bool)
    for _ in range(20 * n + 50):
        slack = cosines @ x + side
        norm = np.sqrt(max(float(x @ (slack + side)), 0.0))  # |C-norm|^2 - constant, only a scale
        outside = np.where(free, np.inf, slack)
        entering = int(np.argmin(outside))
        if outside[entering] >= -4 * n * EPS * (1 + x.sum() + norm):
            break
        before = free.copy()
        free[entering] = True
        while True:
            inside = np.flatnonzero(free)
            target = np.linalg.lstsq(cosines[np.ix_(inside, inside)], -side[inside], rcond=n * EPS)[0]
            if (target > 0).all():
                x[inside] = target
                break
            here = x[inside]
            falling = target <= 0
            limits = np.where(falling, here / np.where(falling, here - target, 1.0), np.inf)
            limits = np.where(falling & (here == target), 0.0, limits)
            step = float(limits.min())
            x[inside] = (here + step * (target - here)).clip(0)
            leaving = inside[limits == step]
            x[leaving] = 0
            free[leaving] = False
            if not free.any():
                break
        if (free == before).all() and outside[entering] >= -CONFLICT * (1 + x.sum()):
            break  # what is left to gain is below rounding
    else:
        raise ConvergenceError(f"the projection onto the dual cone of {n} gradients was not found")
    equal = cosines >= 1 - 8 * EPS
    alike: Array = (equal @ x) / equal.sum(axis=1)
    return alike
