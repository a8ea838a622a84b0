"""What holds for every Gramian: up to 40 losses, six decades of scale, any rank, duplicates."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cograd import weighting

SETTINGS = settings(max_examples=40, deadline=None, derandomize=True)
DETERMINISTIC = {
    "AlignedMTL": weighting.AlignedMTL(),
    "CAGrad": weighting.CAGrad(),
    "ConFIG": weighting.ConFIG(),
    "DualProj": weighting.DualProj(),
    "FairGrad": weighting.FairGrad(alpha=2.0),
    "IMTLG": weighting.IMTLG(),
    "MGDA": weighting.MGDA(),
    "NashMTL": weighting.NashMTL(),
    "UPGrad": weighting.UPGrad(),
}


@st.composite
def jacobians(draw, low_rank=True, decades=6):
    losses, seed = draw(st.integers(1, 40)), draw(st.integers(0, 2**32))
    rank = draw(st.integers(1, losses)) if low_rank and draw(st.booleans()) else 2 * losses
    rng = np.random.default_rng(seed)
    J = rng.standard_normal((losses, rank)) @ rng.standard_normal((rank, 2 * losses + 3))
    J /= np.linalg.norm(J, axis=1, keepdims=True)
    J += draw(st.sampled_from([0.0, 0.05, 0.5])) * rng.standard_normal(J.shape[1])
    if low_rank and losses > 2 and draw(st.booleans()):
        J[losses // 2] = J[0]
    return torch.from_numpy(J * 10 ** (decades * rng.random((losses, 1))))


def worst_cosine(J, weights):
    """The least cosine of the direction with a gradient; 0 where it vanishes beside its parts."""
    direction = J.T @ weights
    if direction.norm() <= 1e-9 * (weights[:, None] * J).norm():
        return 0.0
    return torch.nn.functional.cosine_similarity(J, direction[None], eps=1e-30).min().item()


@SETTINGS
@given(J=jacobians())
def test_the_projections_never_conflict(J):
    for rule in (weighting.UPGrad(), weighting.DualProj()):
        assert worst_cosine(J, rule(gramian=J @ J.T)) >= -1e-6


@SETTINGS
@given(J=jacobians())
def test_mgda_is_optimal_and_does_not_conflict(J):
    gramian = J @ J.T
    w = weighting.MGDA(scale="paper")(gramian=gramian)
    assert (w >= 0).all()
    assert w.sum().item() == pytest.approx(1)
    # the gap bounds the distance to the optimum: for all v on the simplex, v G w <= |v| |w|
    shortest, norms = w @ gramian @ w, J.norm(dim=1)
    rounding = 1e-14 * len(J) * norms * (w @ norms)
    assert (shortest - gramian @ w <= 1e-6 * shortest + rounding).all()


@SETTINGS
@given(J=jacobians(), alpha=st.sampled_from([0.5, 1.0, 2.0]))
def test_the_fair_equations_hold_or_nothing_moves(J, alpha):
    gramian, w = J @ J.T, weighting.FairGrad(alpha, scale="paper")(gramian=J @ J.T)
    if w.any():
        parts = (w[:, None] * J).norm() / (J.T @ w).norm()  # how much cancels
        rounding = 1e-12 * parts**2 * len(J)
        assert (w ** (1 / alpha) * (gramian @ w) - 1).abs().max() <= 1e-8 + rounding
    else:
        unit = J / J.norm(dim=1, keepdim=True)
        shortest = unit.T @ weighting.MGDA(scale="paper")(gramian=unit @ unit.T)
        assert shortest.norm() <= 3e-5


@SETTINGS
@given(J=jacobians(low_rank=False), seed=st.integers(0, 99))
def test_the_order_of_the_losses_does_not_matter(J, seed):
    order = np.random.default_rng(seed).permutation(len(J))
    for rule in DETERMINISTIC.values():
        parts = rule(gramian=J @ J.T) * J.norm(dim=1)
        permuted = rule(gramian=J[order] @ J[order].T) * J[order].norm(dim=1)
        torch.testing.assert_close(permuted, parts[order], rtol=1e-5, atol=1e-6 * parts.abs().max().item())


@SETTINGS
@given(J=jacobians(low_rank=False), factor=st.sampled_from([1e-20, 1e-6, 1e8]))
def test_scaling_all_gradients_changes_nothing(J, factor):
    for rule in DETERMINISTIC.values():
        weights, scaled = rule(gramian=J @ J.T), rule(gramian=factor * (J @ J.T))
        torch.testing.assert_close(scaled, weights, rtol=1e-6, atol=1e-9 * weights.abs().max().item())


@SETTINGS
@given(J=jacobians())
def test_weights_are_finite_whatever_the_gradients(J):
    drawing = {"PCGrad": weighting.PCGrad(seed=0), "GradVac": weighting.GradVac(seed=0)}
    for rule in (DETERMINISTIC | drawing).values():
        assert rule(gramian=J @ J.T).isfinite().all()


@SETTINGS
@given(J=jacobians(low_rank=False))
def test_directions_that_belong_to_the_unit_gradients(J):
    """Scaling one gradient leaves these directions as they are, but for their length."""
    unit = J / J.norm(dim=1, keepdim=True)
    for rule in (weighting.ConFIG(), weighting.NashMTL(), weighting.IMTLG()):
        one, other = J.T @ rule(gramian=J @ J.T), unit.T @ rule(gramian=unit @ unit.T)
        if one.norm() and other.norm():
            cosine = torch.nn.functional.cosine_similarity(one, other, dim=0, eps=1e-30)
            assert abs(cosine.item()) == pytest.approx(1, abs=1e-6)


@SETTINGS
@given(J=jacobians(low_rank=False))
def test_the_fair_direction_is_as_long_as_the_sum(J):
    for rule in (weighting.NashMTL(), weighting.FairGrad(0.5), weighting.FairGrad(2.0)):
        w = rule(gramian=J @ J.T)
        if w.any():
            assert (J.T @ w).norm().item() == pytest.approx(J.sum(0).norm().item(), rel=1e-6)
