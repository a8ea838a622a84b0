"""The convex hull of K gradients: its shortest vector, and the compromise of CAGrad."""

from __future__ import annotations

import math

import numpy as np

from cograd.errors import ConvergenceError
from cograd.weighting._solvers._cone import pivot
from cograd.weighting._solvers._matrix import EPS, RIDGE, Array, length, semidefinite


def lowest_in_hull(cosines: Array, norms: Array, pull: Array | None = None, reach: float = 1.0) -> Array:
    r"""The point :math:`y` of the hull with the least :math:`y^T \hat g_0 + \kappa \|y\|`, exactly.

    An active set, as in Wolfe's algorithm: over the affine hull of a set of vertices the minimum
    has a closed form. Vertices leave before their weight would turn negative; the one with the
    steepest descent enters. Each round lowers the objective, so no set comes back.

    Args:
        cosines: ``[K, K]`` between the gradients.
        norms: ``[K]``, their lengths.
        pull: ``[K]``, the products of the unit gradients with :math:`\hat g_0`; 0 if None, which
            gives the shortest vector of the hull.
        reach: :math:`\kappa`.

    Returns:
        z ``[K]``, >= 0, the coefficients of the unit gradients in :math:`y`, in units of the
        shortest gradient: the weights on the simplex are z * min(norms) / norms.

    Raises:
        ConvergenceError: more than 20 K + 50 rounds.
    """
    size = len(norms)
    cosines = semidefinite(cosines)
    share: Array = norms.min() / norms
    offset: Array = np.zeros(size) if pull is None else pull
    z = np.zeros(size)
    if pull is None and size == 2:
        apart = share[1] ** 2 + share[0] ** 2 - 2 * cosines[0, 1] * share[0] * share[1]
        first = 0.5 if apart <= 0 else min(max((share[0] - cosines[0, 1] * share[1]) * share[0] / apart, 0.0), 1.0)
        return np.array([first, 1 - first]) / share
    if pull is None:
        # the same support solves min |y|^2 + (share @ z - 1)^2 over z >= 0, which pivoting finds sooner
        matrix = cosines + share[:, None] * share
        matrix.flat[:: size + 1] += RIDGE
        z = pivot(matrix, -share)[0]
    if z.any():
        z /= share @ z
        slopes = cosines @ z
        norm = float(slopes @ z)
        if pull is None and norm - float((slopes / share).min()) <= 1e-9 * norm:  # at most twice that above the minimum
            return _alike(z, cosines, norms)
    else:
        start = int(np.argmin((offset + reach) / share))
        z[start] = 1 / share[start]
    free = z > 0
    if np.count_nonzero(free) > 1:
        _settle(z, free, cosines, share, offset, reach)
    for _ in range(20 * size + 50):
        norm = length(cosines, z)
        slopes = offset * norm + reach * (cosines @ z)
        gap = np.where(free, np.inf, slopes - (slopes @ z) * share)
        entering = int(np.argmin(gap))
        if gap[entering] >= -8 * size * EPS * (norm * np.abs(offset).max() + reach * z.sum()):
            return _alike(z, cosines, norms)
        before = free.copy()
        free[entering] = True
        _settle(z, free, cosines, share, offset, reach)
        if (free == before).all() and gap[entering] >= -1e-7 * norm * (np.abs(offset).max() + reach) - 1e-12 * z.sum():
            return _alike(z, cosines, norms)  # what is left to gain is below rounding
    raise ConvergenceError(f"the lowest point of the hull of {size} gradients was not found")


def _settle(z: Array, free: np.ndarray, cosines: Array, share: Array, offset: Array, reach: float) -> None:
    """Move z to the minimum over the affine hull of the free vertices, less those that must leave."""
    while True:
        inside = np.flatnonzero(free)
        here = z[inside]
        step, ends = _towards_minimum(cosines[np.ix_(inside, inside)], share[inside], offset[inside], reach, here)
        limits = np.divide(-here, step, out=np.full(len(inside), np.inf), where=step < 0)
        furthest = float(limits.min())
        if ends and furthest >= 1:
            z[inside] = here + step
            return
        if not math.isfinite(furthest):
            raise ConvergenceError(f"the hull of {len(inside)} gradients has no lowest point")
        z[inside] = (here + furthest * step).clip(0)
        leaving = inside[limits == furthest]
        z[leaving] = 0
        free[leaving] = False
        if free.sum() == 1:
            z[free] = 1 / share[free]
            return


def _towards_minimum(cosines: Array, share: Array, offset: Array, reach: float, here: Array) -> tuple[Array, bool]:
    """The step to the minimum of the affine hull, and whether there is one: else a way that only descends."""
    n = len(share)
    border = np.zeros((n + 1, n + 1))
    border[:n, :n], border[:n, n], border[n, :n] = cosines, share, share
    sides = np.zeros((n + 1, 2))
    sides[n, 0], sides[:n, 1] = 1, -offset
    try:
        nearest, along = np.linalg.solve(border, sides)[:n].T
    except np.linalg.LinAlgError:
        nearest, along = np.linalg.lstsq(border, sides)[0][:n].T
    slope = math.sqrt(max(-float(offset @ along), 0.0))  # length of the part of g0 in the affine hull
    if slope == 0:
        return nearest - here, True
    if slope >= reach:
        return along, False
    distance = length(cosines, nearest)
    return nearest + along * (distance / math.sqrt(reach**2 - slope**2)) - here, True


def _alike(z: Array, cosines: Array, norms: Array) -> Array:
    """Equal shares for equal gradients, between which the minimum cannot choose."""
    parallel = cosines >= 1 - 8 * EPS
    if np.count_nonzero(parallel) == len(z):
        return z
    equal = parallel & (np.abs(norms - norms[:, None]) <= 8 * EPS * norms)
    shared: Array = (equal @ z) / equal.sum(axis=1)
    return shared
