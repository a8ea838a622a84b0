"""The equations of alpha-fair bargaining: a damped Newton method on a convex function."""

from __future__ import annotations

import numpy as np

from cograd.errors import ConvergenceError
from cograd.weighting._solvers._hull import lowest_in_hull
from cograd.weighting._solvers._matrix import EPS, Array, length, semidefinite, vanishes

NOTHING = 1e-8  # of the squared lengths: inner products of float32 gradients cannot tell less from zero
PATIENCE = 40  # steps after which a residual of rounding will do, however large that is


def fair_weights(cosines: Array, norms: Array, alpha: float) -> Array:
    r"""The :math:`w > 0` with :math:`G w = w^{-1/\alpha}`, or zeros if no direction helps every loss.

    It minimises :math:`\tfrac12 w^T G w - \sum_i \phi(w_i)` with :math:`\phi' = w^{-1/\alpha}`, which
    has a minimum unless the hull of the gradients holds zero: then the iterates grow without bound
    along a combination that vanishes. Solved for w relative to what it would be were the gradients
    orthogonal, so that no scale remains.

    Raises:
        ConvergenceError: neither the equations hold nor do the weights stand still after 500 steps.
    """
    n, power, top = len(norms), 1 / alpha, norms.max()
    lengths: Array = (norms / top) ** ((1 - alpha) / (1 + alpha))  # of w_i g_i, were they orthogonal
    matrix = semidefinite(cosines)
    scaled = matrix * lengths * lengths[:, None]
    rounding, target = 4 * n * EPS * np.abs(scaled), lengths**2
    ray = float(scaled.sum() / target.sum())
    z: Array = np.full(n, ray ** (-1 / (1 + power)) if ray > EPS else 1.0)
    scale = float(target.sum())

    def value(z: Array) -> float:
        utility = np.log(z) if power == 1 else z ** (1 - power) / (1 - power)
        return float(z @ scaled @ z / 2 - target @ utility)

    for turn in range(500):
        if vanishes(matrix, lengths * z, NOTHING) or (turn == 30 and _stationary(matrix)):
            return np.zeros(n)
        fair = target * z**-power
        gradient = scaled @ z - fair
        accurate = float(np.abs(gradient / fair).max())
        limit = float((rounding @ z / fair).max())  # below which the residual is rounding
        if accurate <= max(1e-12, min(1e-7, limit) if turn < PATIENCE else limit):
            break
        if turn > 3 * PATIENCE and accurate <= 1e-4:
            break  # nearly opposite gradients: rounding lets no step improve on it
        hessian = scaled.copy()
        hessian.flat[:: n + 1] += power * fair / z
        step = np.linalg.solve(hessian, -gradient)
        slope = float(gradient @ step)
        shrink = float((-step / z).max())
        size = 0.9 / shrink if shrink > 0.9 else 1.0
        if -slope > 1e-6 * scale:  # else the function is quadratic, and its decrease below rounding
            now = value(z)
            while value(z + size * step) > now + 0.1 * size * slope and size > 1e-12:
                size /= 2
        z = z + size * step
        if size == 1 and float(np.abs(step / z).max()) <= 1e-10:
            break  # the weights stand still, though some equations may be below rounding
    else:
        raise ConvergenceError(f"the fair weights of {n} losses were not found: a relative residual of {accurate:.1e}")
    weights: Array = lengths * z / norms * top ** ((1 - alpha) / (1 + alpha))
    return weights


def as_long_as_the_sum(weights: Array, cosines: Array, norms: Array) -> Array:
    """The weights scaled so that their direction is as long as the sum of the gradients. Zeros stay zeros.

    The sum cannot vanish unless the hull of the gradients holds zero, where the weights are zeros.
    """
    parts = weights * norms
    if not parts.any():
        return weights
    scaled: Array = weights * (length(cosines, norms) / length(cosines, parts))
    return scaled


def _stationary(cosines: Array) -> bool:
    """Whether the hull of the gradients holds zero."""
    return vanishes(cosines, lowest_in_hull(cosines, np.ones(len(cosines))), NOTHING)
