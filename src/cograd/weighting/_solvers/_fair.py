"""The equations of alpha-fair bargaining: a damped Newton method on a convex function."""

from __future__ import annotations

import numpy as np

from cograd.errors import ConvergenceError
from cograd.weighting._solvers._hull import cancelling
from cograd.weighting._solvers._matrix import EPS, FLAT, Array, independent, length, semidefinite, within_range

PATIENCE = 100  # steps after which it will do that the function does not fall by more than rounding


def fair_weights(cosines: Array, norms: Array, alpha: float) -> Array:
    r"""The :math:`w > 0` with :math:`G w = w^{-1/\alpha}`, or zeros if no direction helps every loss.

    It minimises :math:`\tfrac12 w^T G w - \sum_i \phi(w_i)` with :math:`\phi' = w^{-1/\alpha}`, which
    has a minimum unless the hull of the gradients holds zero, and that is asked first. Solved for w
    relative to what it would be were the gradients orthogonal, so that no scale remains.

    Raises:
        ConvergenceError: neither the equations hold nor do the weights stand still after 500 steps.
    """
    real, norms = norms, within_range(norms)
    n, power, top = len(norms), 1 / alpha, norms.max()
    lengths: Array = (norms / top) ** ((1 - alpha) / (1 + alpha))  # of w_i g_i, were they orthogonal
    matrix = semidefinite(cosines)
    if not independent(matrix) and cancelling(matrix, FLAT) is not None:
        return np.zeros(n)
    scaled = matrix * lengths * lengths[:, None]
    target = lengths**2
    ray = float(scaled.sum() / target.sum())
    z: Array = np.full(n, ray ** (-1 / (1 + power)) if ray > EPS else 1.0)
    scale = float(target.sum())

    def value(z: Array) -> float:
        utility = np.log(z) if power == 1 else z ** (1 - power) / (1 - power)
        return float(z @ scaled @ z / 2 - target @ utility)

    for turn in range(500):
        fair = target * z**-power
        gradient = scaled @ z - fair
        if float(np.abs(gradient / fair).max()) <= 1e-12:
            break
        hessian = scaled.copy()
        hessian.flat[:: n + 1] += power * fair / z
        units = 1 / np.sqrt(hessian.diagonal())
        step = np.linalg.solve(hessian * units * units[:, None], -gradient * units) * units
        slope = float(gradient @ step)
        shrink = float((-step / z).max())
        size = 0.9 / shrink if shrink > 0.9 else 1.0
        if -slope > 1e-6 * scale:  # else the function is quadratic, and its decrease below rounding
            now = value(z)
            while value(z + size * step) > now + 0.1 * size * slope and size > 1e-12:
                size /= 2
        z = z + size * step
        moved = float(np.abs(size * step / z).max())
        if size == 1 and (moved <= 1e-10 or (turn > PATIENCE and -slope <= 1e-15 * scale)):
            break  # the weights stand still, or what they move by is below rounding
    else:
        raise ConvergenceError(f"the fair weights of {n} losses were not found: they still move by {moved:.1e}")
    weights: Array = lengths * z / real * top ** ((1 - alpha) / (1 + alpha))
    return weights


def as_long_as_the_sum(weights: Array, cosines: Array, norms: Array) -> Array:
    """The weights scaled so that their direction is as long as the sum of the gradients. Zeros stay zeros.

    The sum cannot vanish unless the hull of the gradients holds zero, where the weights are zeros.
    """
    parts, cosines = weights * norms, semidefinite(cosines)
    if not parts.any():
        return weights
    scaled: Array = weights * (length(cosines, norms) / length(cosines, parts))
    return scaled
