"""The K x K problems against brute force over all active sets, and against their conditions."""

import itertools

import numpy as np
import pytest

from cograd.errors import ConvergenceError
from cograd.weighting._solvers import _cone, _fair, _hull, _matrix


def gradients(seed, losses, width=None, decades=2.0):
    rng = np.random.default_rng(seed)
    J = rng.standard_normal((losses, width or losses + 1)) * 10 ** (decades * rng.random((losses, 1)))
    norms = np.linalg.norm(J, axis=1)
    unit = J / norms[:, None]
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, 1)
    return J, norms, unit, cosines


def subsets(n):
    return itertools.chain.from_iterable(itertools.combinations(range(n), r) for r in range(n + 1))


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize(("losses", "width"), [(2, 2), (3, 3), (4, 2), (4, 5)])
def test_the_shortest_vector_by_brute_force(seed, losses, width):
    J, norms, _, cosines = gradients(seed, losses, width)
    w = _hull.lowest_in_hull(cosines, norms) * norms.min() / norms
    assert (w >= 0).all()
    assert w.sum() == pytest.approx(1)
    best = np.inf
    for some in subsets(losses):
        if some:
            A = np.ones((len(some) + 1, len(some) + 1))
            A[:-1, :-1], A[-1, -1] = J[list(some)] @ J[list(some)].T, 0
            v = np.linalg.lstsq(A, np.eye(len(A))[-1], rcond=None)[0][:-1]
            if (v >= -1e-12).all() and abs(v.sum() - 1) < 1e-9:
                best = min(best, float(np.linalg.norm(J[list(some)].T @ v)))
    assert np.linalg.norm(J.T @ w) <= best * (1 + 1e-6) + 1e-7 * norms.min()


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize(("losses", "width"), [(2, 2), (3, 2), (4, 3), (4, 5)])
def test_the_projection_by_brute_force(seed, losses, width):
    _, _, unit, cosines = gradients(seed, losses, width)
    z = np.random.default_rng(seed + 1).standard_normal((3, losses))
    for row, projected in zip(z, _cone.onto_dual_cone(cosines, z), strict=True):
        point, best = unit.T @ row, np.inf
        for some in subsets(losses):
            A = unit[list(some)]
            near = point - np.linalg.pinv(A) @ A @ point if some else point
            if (unit @ near >= -1e-9).all():
                best = min(best, float(np.linalg.norm(point - near)))
        found = unit.T @ projected
        assert (unit @ found).min() >= -1e-7 * max(np.linalg.norm(found), 1e-9)
        assert np.linalg.norm(point - found) == pytest.approx(best, rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("seed", range(10))
def test_the_active_set_agrees_with_pivoting(seed):
    _, _, _, cosines = gradients(seed, 8, 12)
    pivoted, solved = _cone._pivot_rows(cosines, cosines)
    assert solved.all()
    for side, x in zip(cosines, pivoted, strict=True):
        np.testing.assert_allclose(_cone.pivot(cosines, side)[0], x, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(_cone._active_set(cosines, side), x, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("reach", [0.2, 0.7, 1.5])
@pytest.mark.parametrize("seed", range(10))
def test_the_compromise_is_lowest_on_the_simplex(seed, reach):
    J, norms, unit, cosines = gradients(seed, 4, 6)
    mean = J.mean(0)
    w = _hull.lowest_in_hull(cosines, norms, unit @ mean / np.linalg.norm(mean), reach) * norms.min() / norms

    def value(v):
        return v @ J @ mean + reach * np.linalg.norm(mean) * np.linalg.norm(J.T @ v)

    others = np.random.default_rng(seed).dirichlet(np.full(4, 0.4), 400)
    near = 0.99 * w + 0.01 * others
    scale = np.linalg.norm(mean) * norms.max()
    assert min(value(v) for v in [*others, *near, *np.eye(4)]) >= value(w) - 1e-10 * scale


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("losses", [1, 2, 5, 16, 40])
def test_the_fair_equations(losses, alpha):
    J, norms, _, cosines = gradients(losses, losses, 2 * losses, decades=6)
    w = _fair.fair_weights(cosines, norms, alpha)
    assert (w > 0).all()
    assert np.abs((J @ (J.T @ w)) * w ** (1 / alpha) - 1).max() <= 1e-8


def test_an_indefinite_matrix_gets_its_nearest():
    cosines = np.array([[1.0, 1.004], [1.004, 1.0]])
    nearest = _matrix.semidefinite(cosines)
    assert np.linalg.eigvalsh(nearest).min() >= -1e-15
    np.testing.assert_allclose(nearest, cosines, atol=3e-3)
    same = np.array([[1.0, 0.5], [0.5, 1.0]])
    assert _matrix.semidefinite(same) is same


@pytest.mark.parametrize(
    "solve",
    [
        lambda bad: _hull.lowest_in_hull(bad, np.ones(3)),
        lambda bad: _fair.fair_weights(bad, np.ones(3), 1.0),
    ],
)
def test_what_does_not_converge_raises(solve, monkeypatch):
    monkeypatch.setattr(np.linalg, "solve", lambda a, b: np.full(np.shape(b), -1e-3))
    with pytest.raises(ConvergenceError):
        solve(np.array([[1.0, -0.4, 0.1], [-0.4, 1.0, -0.4], [0.1, -0.4, 1.0]]))


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("ratio", [1.0, 3.0, 1000.0])
def test_nearly_opposite_gradients_have_a_fair_answer(alpha, ratio):
    for exponent in np.linspace(-12, -4, 33):
        cosine = -1 + 10**exponent
        norms = np.array([1.0, ratio])
        weights = _fair.fair_weights(np.array([[1.0, cosine], [cosine, 1.0]]), norms, alpha)
        gramian = np.array([[1.0, cosine], [cosine, 1.0]]) * norms * norms[:, None]
        if weights.any():
            assert exponent > -10.5
            np.testing.assert_allclose(gramian @ weights, weights ** (-1 / alpha), rtol=1e-4)
