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
    Block principal pivoting solves all rows at once; a row that it leaves unsolved, or in conflict,
    goes to an active set. A projection that is zero up to rounding is exactly zero.

    Args:
        cosines: ``[K, K]``, C, between the gradients.
        vectors: ``[R, K]``, coefficients of the unit gradients.

    Raises:
        ConvergenceError: the active set did not end.
    """
    cosines = semidefinite(cosines)
    sides = vectors @ cosines
    size = np.abs(vectors).max(axis=1, keepdims=True)
    moved, solved = _pivot(cosines, sides / size)
    projected: Array = vectors + moved * size
    for row in np.flatnonzero(~solved | (_conflict(cosines, projected) > CONFLICT)):
        projected[row] = vectors[row] + size[row] * _active_set(cosines, sides[row] / size[row])
    squares = np.einsum("rk,rk->r", projected @ cosines, projected)
    rounding = 1e-12 * (projected**2).sum(axis=1) + 1e-18 * (vectors**2).sum(axis=1)
    projected[squares <= rounding] = 0
    return projected


def _conflict(cosines: Array, vectors: Array) -> Array:
    """Minus the smallest cosine of each row with a unit gradient."""
    products = vectors @ cosines
    squares = np.einsum("rk,rk->r", products, vectors)
    rounding = 1e-12 * np.einsum("rk,rk->r", vectors, vectors)
    worst: Array = -products.min(axis=1) / np.sqrt(np.maximum(squares, rounding))
    return worst


def _pivot(cosines: Array, sides: Array) -> tuple[Array, NDArray[np.bool_]]:
    """X >= 0 with C x + q >= 0 and one of both 0, for each row q of sides; and which rows it solved."""
    rows, n = sides.shape
    ridged = cosines + RIDGE * np.eye(n)
    free = np.asarray(sides < 0)
    x = np.zeros((rows, n))
    todo = np.flatnonzero(free.any(axis=1))
    solved = np.asarray(~free.any(axis=1))
    fewest = np.full(rows, n + 1)
    tries = np.full(rows, 3)
    for _ in range(5 * n + 10):
        if not len(todo):
            break
        inside = free[todo]
        systems = np.where(inside[:, :, None] & inside[:, None, :], ridged, 0.0)
        systems[:, range(n), range(n)] = 1 + RIDGE
        now = np.linalg.solve(systems, np.where(inside, -sides[todo], 0.0)[:, :, None])[:, :, 0]
        slack = now @ ridged + sides[todo]
        wrong = np.where(inside, now < 0, slack < -4 * n * EPS * (1 + np.abs(now).sum(axis=1, keepdims=True)))
        count = wrong.sum(axis=1)
        x[todo] = now
        solved[todo] = count == 0
        better = count < fewest[todo]
        fewest[todo] = np.where(better, count, fewest[todo])
        tries[todo] = np.where(better, 3, tries[todo] - 1)
        last = n - 1 - np.argmax(wrong[:, ::-1], axis=1)
        single = np.zeros_like(wrong)
        single[np.arange(len(todo)), last] = True
        free[todo] ^= np.where((tries[todo] < 0)[:, None], single & wrong, wrong)
        todo = todo[count > 0]
    return x.clip(0), solved


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
