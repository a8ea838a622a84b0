"""The complementarity problem behind every projection: the shortest x >= 0 that leaves nothing negative."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cograd.errors import ConvergenceError
from cograd.weighting._solvers._matrix import EPS, Array, independent

RIDGE = 1e-10  # of a unit diagonal: makes a dependent system solvable, and its solution nearly the shortest
ROUNDING = 1e-13  # an eigenvalue of unit vectors' products that float64 cannot tell from zero
BELOW = 1e-13  # of the parts: a product as near to zero counts as none


def complements(matrix: Array, sides: Array) -> Array:
    r"""For each row q of ``sides`` the :math:`x \ge 0` with :math:`M x + q \ge 0` and :math:`x^T (M x + q) = 0`.

    Of independent vectors there is one, found by block pivoting. Of dependent ones there may be many,
    and the shortest is taken: block pivoting on M and a ridge gives its support, from where an active
    set goes on, on factors of M so that rounding counts once and not squared.

    Args:
        matrix: ``[n, n]``, M, the products of n vectors of about unit length.
        sides: ``[R, n]``, in the range of M.

    Raises:
        ConvergenceError: the active set did not end.
    """
    if independent(matrix):
        x, solved = _pivot_rows(matrix, sides)
        if solved.all():
            return x
    values, axes = np.linalg.eigh(matrix)
    kept = values > ROUNDING
    lengths, axes = np.sqrt(values[kept]), axes[:, kept]
    factor = axes * lengths
    ridged = factor @ factor.T
    ridged.flat[:: len(matrix) + 1] += RIDGE
    x, _ = _pivot_rows(ridged, sides)
    for row, point in enumerate(sides @ axes / lengths):
        x[row] = _active_set(factor, point, x[row])
    return x


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


def _active_set(factor: Array, point: Array, start: Array) -> Array:
    """The same for one row, by the active set of Lawson and Hanson: the x >= 0 that brings the point nearest to zero.

    Args:
        factor: ``[n, r]``, the vectors.
        point: ``[r]``.
        start: ``[n]``, x to start from.
    """
    n = len(factor)
    x = start.clip(0)
    free = x > 0
    useless = np.zeros(n, dtype=bool)  # they entered and got nothing: what they could gain is rounding
    nearest = np.inf
    _settle(x, free, factor, point)
    for _ in range(20 * n + 50):
        arrived = point + x @ factor
        distance = float(arrived @ arrived)
        if distance < nearest * (1 - 1e-14):
            nearest = distance
            useless[:] = False
        slack = np.where(free | useless, np.inf, factor @ arrived)
        entering = int(np.argmin(slack))
        if slack[entering] >= -BELOW * (1 + x.sum()):
            return x
        free[entering] = useless[entering] = True
        _settle(x, free, factor, point)
    raise ConvergenceError(f"the projection onto the dual cone of {n} gradients was not found")


def _settle(x: Array, free: NDArray[np.bool_], factor: Array, point: Array) -> None:
    """Move x to the best of its free part, less those that would turn negative on the way."""
    while free.any():
        inside = np.flatnonzero(free)
        here = x[inside]
        target = np.linalg.lstsq(factor[inside].T, -point, rcond=ROUNDING**0.5)[0]
        falling = target <= 0
        if not falling.any():
            x[inside] = target
            return
        limits = np.where(falling, here / np.where(here > target, here - target, 1.0), np.inf)
        step = float(limits.min())
        x[inside] = (here + step * (target - here)).clip(0)
        leaving = inside[limits == step]
        x[leaving] = 0
        free[leaving] = False
