"""The convex hull of K gradients: its shortest vector, and the compromise of CAGrad."""

from __future__ import annotations

import math

import numpy as np

from cograd.errors import ConvergenceError
from cograd.weighting._solvers._complement import complements
from cograd.weighting._solvers._cone import onto_dual_cone
from cograd.weighting._solvers._matrix import Array, independent, length, semidefinite, vanishes, within_range


def lowest_in_hull(cosines: Array, norms: Array) -> Array:
    r"""The shortest vector :math:`y` of the hull.

    It is where the nearest point to :math:`(0, 1)` of the cone of the :math:`(\hat g_i, -s_i)` points, with
    :math:`s_i` the length of the shortest gradient relative to the i-th. A hull that holds zero is
    found by the unit gradients, whose scale cannot hide it.

    Args:
        cosines: ``[K, K]`` between the gradients.
        norms: ``[K]``, their lengths.

    Returns:
        z ``[K]``, >= 0, the coefficients of the unit gradients in :math:`y`, in units of the
        shortest gradient: the weights on the simplex are z * min(norms) / norms.

    Raises:
        ConvergenceError: as :func:`complements`.
    """
    cosines = semidefinite(cosines)
    share: Array = norms.min() / norms
    if len(norms) == 2:
        products = share - cosines[0, 1] * share[::-1]
        apart = products @ share
        if apart <= 1e-12:
            return 0.5 / share
        inside: Array = products / apart
        return inside if inside.min() > 0 else np.where(products > 0, 1 / share, 0.0)
    z = None if independent(cosines) else cancelling(cosines)
    if z is None:
        z = complements(cosines + share[:, None] * share, -share[None])[0]
    lowest: Array = z / (share @ z)
    return lowest


def cancelling(cosines: Array, least: float = 1e-12) -> Array | None:
    """The z >= 0 that combine the K unit gradients to zero, the shortest such; None if there are none.

    Args:
        cosines: ``[K, K]``, positive semidefinite.
        least: of the squared parts; what is shorter is zero.
    """
    z: Array = complements(cosines + 1, -np.ones((1, len(cosines))))[0]
    z[z <= 1e-12 * z.max()] = 0  # rounding, which the shortest gradient could make count
    return z if vanishes(cosines, z, least) else None


def compromise(cosines: Array, norms: Array, mean: Array, reach: float) -> Array:
    r"""The vector within ``reach`` of the ``mean`` whose least product with a gradient is the greatest.

    With products of at least e s, for lengths 1 / s, the nearest to the mean is a projection, and the
    further away the greater e. So e is sought for which it is as far as it may be; e moves with p,
    where the mean with p as one more coordinate is projected onto the dual cone of the
    :math:`(\hat g_i, -s_i)`, so that a projection always exists. Between two changes of the active
    gradients the distance has a closed form in p. If no e is above zero, and the mean's projection on
    the dual cone is within reach, that is the nearest of the best.

    Args:
        cosines: ``[K, K]`` between the gradients.
        norms: ``[K]``, their lengths.
        mean: ``[K]``, coefficients of the unit gradients in a vector of length 1.
        reach: the distance, > 0.

    Returns:
        ``[K]``, coefficients of the unit gradients.

    Raises:
        ConvergenceError: p was not found; as :func:`complements`.
    """
    cosines, norms = semidefinite(cosines), within_range(norms)
    if not independent(cosines) and cancelling(cosines) is not None:
        safe: Array = onto_dual_cone(cosines, mean[None])[0]
        if length(cosines, safe - mean) <= reach * (1 + 1e-9):
            return safe
    along = cosines @ mean
    start = int(np.argmin((along + reach) * norms))
    share = norms[start] / norms
    p = float(along[start]) + 2 * reach
    below, above = -math.inf, math.inf
    for _ in range(200):
        units = np.sqrt(1 + share**2)
        matrix = cosines + share[:, None] * share
        x = complements(matrix / units / units[:, None], ((along - p * share) / units)[None])[0] / units
        far, active = length(cosines, x), x > 0
        if abs(far - reach) <= 1e-13 * reach:
            break
        if active.any() and (longer := float(share[active].max())) < 0.1:
            # the coordinate counts little beside gradients as long as those that matter: measure by one of them
            p = (p - share @ x) * longer + share @ x / longer
            share, below, above = share / longer, -math.inf, math.inf
            continue
        below, above = (p, above) if far < reach else (below, p)
        p = _further(matrix, cosines, share, x, p, reach)
        if not below < p < above:
            p = _between(below, above)
        if p in (below, above):
            break  # what is left to gain is below rounding
    else:
        raise ConvergenceError(f"the compromise between {len(norms)} gradients was not found: {far:.6g} of {reach:.6g}")
    direction: Array = mean + x * (reach / far)
    return direction


def _further(matrix: Array, cosines: Array, share: Array, x: Array, p: float, reach: float) -> float:
    """The p at which x, moving with p as long as the active gradients stay, is as long as ``reach``; else NaN."""
    active = x > 0
    if not active.any():
        return math.nan
    slope = np.zeros(len(x))
    slope[active] = np.linalg.lstsq(matrix[np.ix_(active, active)], share[active])[0]
    a, b, c = slope @ cosines @ slope, x @ cosines @ slope, x @ cosines @ x - reach**2
    root = b * b - a * c
    return float(p + (math.sqrt(root) - b) / a) if a > 0 and root >= 0 else math.nan


def _between(below: float, above: float) -> float:
    """A number in an interval that may be open to one side."""
    if math.isinf(above):
        return below + 1 + abs(below)
    if math.isinf(below):
        return above - 1 - abs(above)
    return (below + above) / 2
