"""The principal axes of gradients, exact for the short ones beside long ones."""

from __future__ import annotations

import numpy as np

from cograd.weighting._solvers._matrix import EPS, Array

GRADED = 1e3  # the ratio of lengths up to which a general decomposition loses no more than three digits


def principal(rows: Array) -> tuple[Array, Array]:
    """The left singular vectors ``[n, r]`` and the singular values ``[r]`` of ``rows`` ``[n, r]``, of full rank.

    Where columns differ much in length, by Jacobi's rotations of pairs of columns: they spoil none by
    the rounding of a longer one. A pair is left alone once it is orthogonal to rounding.
    """
    sizes = np.sqrt(np.square(rows).sum(axis=0))
    if sizes.max() <= GRADED * sizes.min():
        axes, lengths, _ = np.linalg.svd(rows, full_matrices=False)
        return axes, lengths
    columns = rows.T.copy()
    for _ in range(40):
        turned = False
        for left, right in _rounds(len(columns)):
            a, b = columns[left], columns[right]
            aa, bb, ab = (a * a).sum(axis=1), (b * b).sum(axis=1), (a * b).sum(axis=1)
            askew = np.abs(ab) > 4 * EPS * np.sqrt(aa * bb)
            if askew.any():
                turned = True
                half = (bb - aa) / np.where(askew, 2 * ab, 1.0)
                tangent = np.where(half < 0, -1.0, 1.0) / (np.abs(half) + np.sqrt(1 + half * half))
                tangent = np.where(askew, tangent, 0.0)[:, None]
                cosine = 1 / np.sqrt(1 + tangent * tangent)
                columns[left], columns[right] = cosine * (a - tangent * b), cosine * (b + tangent * a)
        if not turned:
            break
    lengths = np.sqrt(np.square(columns).sum(axis=1))
    return (columns / lengths[:, None]).T, lengths


def _rounds(n: int) -> list[tuple[list[int], list[int]]]:
    """Every pair of n once, in rounds of pairs without a common member: a round-robin tournament."""
    seats = list(range(n)) + [-1] * (n % 2)
    half, rounds = len(seats) // 2, []
    for _ in range(len(seats) - 1):
        pairs = [(a, b) for a, b in zip(seats[:half], reversed(seats[half:]), strict=True) if min(a, b) >= 0]
        rounds.append(([a for a, _ in pairs], [b for _, b in pairs]))
        seats = [seats[0], seats[-1], *seats[1:-1]]
    return rounds
