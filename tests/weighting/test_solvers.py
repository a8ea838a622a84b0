"""The K x K problems against brute force over all active sets, and against their conditions."""

import itertools

import mpmath
import numpy as np
import pytest

from cograd.errors import ConvergenceError
from cograd.weighting._solvers import _axes, _complement, _cone, _fair, _hull, _matrix


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
    pivoted, solved = _complement._pivot_rows(cosines, cosines)
    assert solved.all()
    factor = np.linalg.cholesky(cosines)
    for side, x, point in zip(cosines, pivoted, factor, strict=True):
        np.testing.assert_allclose(_complement.pivot(cosines, side)[0], x, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(_complement._active_set(factor, point, 0 * x), x, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("rank", [1, 2, 5])
@pytest.mark.parametrize("seed", range(10))
def test_of_many_solutions_the_shortest_is_taken(seed, rank):
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((12, rank))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    side = rows @ rng.standard_normal(rank)
    x = _complement.complements(rows @ rows.T, side[None])[0]
    slack = rows @ (rows.T @ x) + side
    assert x.min() >= 0
    assert slack.min() >= -1e-12
    assert abs(x @ slack) <= 1e-12
    # shortest: it is the projection of zero on all solutions, x = max(rows y, 0) for some y, on the rows in touch
    touched = slack <= 1e-10
    used = touched & (x > 0)
    y = np.linalg.lstsq(rows[used], x[used], rcond=None)[0]
    np.testing.assert_allclose(rows[used] @ y, x[used], atol=1e-9)


@pytest.mark.parametrize("reach", [0.2, 0.7, 1.5])
@pytest.mark.parametrize("seed", range(10))
def test_the_compromise_is_that_of_the_lowest_point_on_the_simplex(seed, reach):
    J, norms, unit, cosines = gradients(seed, 4, 6)
    mean = J.mean(0)
    size = np.linalg.norm(mean)
    bent = _hull.compromise(cosines, norms, norms / 4 / size, reach)
    moved = bent - norms / 4 / size
    assert _matrix.length(cosines, moved) == pytest.approx(reach)
    w = moved / norms
    w /= w.sum()
    assert w.min() >= -1e-12

    def value(v):
        return v @ J @ mean + reach * size * np.linalg.norm(J.T @ v)

    others = np.random.default_rng(seed).dirichlet(np.full(4, 0.4), 400)
    near = 0.99 * w + 0.01 * others
    assert min(value(v) for v in [*others, *near, *np.eye(4)]) >= value(w) - 1e-10 * size * norms.max()
    assert (J @ (unit.T @ bent)).min() * size == pytest.approx(value(w))


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


@pytest.mark.parametrize("decades", [1, 6, 18])
def test_the_axes_of_short_gradients_are_exact_beside_long_ones(decades):
    rng = np.random.default_rng(decades)
    rows = np.tril(rng.standard_normal((7, 5))) + 3 * np.eye(7, 5)
    sizes = np.logspace(0, -decades, 5)
    axes, lengths = _axes.principal(rows * sizes)
    order = np.argsort(-lengths)
    np.testing.assert_allclose(axes.T @ axes, np.eye(5), atol=1e-13)
    with mpmath.workdps(60):
        exact = mpmath.svd_r(mpmath.matrix(rows.tolist()) * mpmath.diag(sizes.tolist()), compute_uv=False)
        np.testing.assert_allclose(lengths[order], [float(v) for v in exact], rtol=1e-12)


def test_what_does_not_converge_raises(monkeypatch):
    three = np.array([[1.0, 0.4, 0.1], [0.4, 1.0, -0.3], [0.1, -0.3, 1.0]])
    monkeypatch.setattr(np.linalg, "solve", lambda a, b: 1e-3 * b)
    with pytest.raises(ConvergenceError, match="the fair weights of 3 losses were not found: they still move by"):
        _fair.fair_weights(three, np.ones(3), 1.0)

    def creep(x, free, factor, point):
        x += 1e-3
        free[:] = False

    monkeypatch.setattr(_complement, "_settle", creep)
    with pytest.raises(ConvergenceError, match="the projection onto the dual cone of 3 gradients was not found"):
        _complement._active_set(np.eye(3), -np.ones(3), np.zeros(3))


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
