import math

import pytest
import torch

from cograd.weighting import NashMTL

J2 = torch.tensor([[-4.0, 1, 1], [6, 1, 1]], dtype=torch.float64)
J3 = torch.tensor([[1.0, 0, 0], [-0.6, 0.8, 0], [-0.2, -0.9, 1.5]], dtype=torch.float64)


def weights(J, **options):
    return NashMTL(**options)(gramian=J @ J.T)


def test_known_answer():
    # the root of G a = 1 / a, which the authors' code (AvivNavon/nash-mtl with ECOS) reaches to 3e-7
    w = weights(J2, scale="paper")
    torch.testing.assert_close(w, torch.tensor([0.5914611522, 0.4070714829], dtype=torch.float64))
    torch.testing.assert_close(J2.T @ w, torch.tensor([0.0765842884, 0.9985326351, 0.9985326351]).double())


def test_the_toy_of_the_authors_is_solved_where_their_solver_is_a_little_off():
    # gradients at (-7.5, -0.5), experiments/toy; their weights there, with ECOS, are 4e-5 from the root
    J = torch.tensor([[-0.07102641209707565, -0.07093989868795054], [-0.02449186624037091, 9.160756925587464]]).double()
    theirs = torch.tensor([18.334803262136933, 0.20091189153016442], dtype=torch.float64)
    assert 1e-4 < (theirs * (J @ (J.T @ theirs)) - 1).abs().max() < 2e-4
    w = weights(J, scale="paper")
    assert (w * (J @ (J.T @ w)) - 1).abs().max() < 1e-14
    torch.testing.assert_close(w, theirs, rtol=1e-4, atol=0)


def test_three_losses():
    expected = torch.tensor([2.002298364, 2.201510539, 0.909829866], dtype=torch.float64)  # TorchJD 0.18
    torch.testing.assert_close(weights(J3, scale="paper"), expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_it_solves_its_equations_at_any_scale(scale):
    torch.manual_seed(3)
    J = scale * torch.randn(12, 30, dtype=torch.float64) * torch.logspace(0, 6, 12, dtype=torch.float64)[:, None]
    w = weights(J, scale="paper")
    assert (w * (J @ (J.T @ w)) - 1).abs().max() <= 1e-8
    assert (J.T @ w).norm().item() == pytest.approx(math.sqrt(12))


def test_the_sum_scale_is_as_long_as_the_sum():
    assert (J3.T @ weights(J3)).norm().item() == pytest.approx(J3.sum(0).norm().item())
    torch.testing.assert_close(weights(5 * torch.eye(3).double()), torch.ones(3).double())


def test_scaling_one_gradient_divides_its_weight():
    scales = torch.tensor([1.0, 1e3, 1e-2], dtype=torch.float64)
    torch.testing.assert_close(
        weights(scales[:, None] * J3, scale="paper") * scales, weights(J3, scale="paper"), rtol=1e-9, atol=0
    )


@pytest.mark.parametrize("scale", ["sum", "paper"])
def test_without_a_direction_for_all_nothing_moves(scale):
    for J in ([[1.0, 2.0], [-1.0, -2.0]], [[1.0, 2.0], [-3.0, -6.0]], [[1.0, 0], [-1, 1], [-1, -1]]):
        assert weights(torch.tensor(J, dtype=torch.float64), scale=scale).abs().max() == 0


def test_a_sum_that_nearly_vanishes_gives_a_direction_as_short():
    J = torch.tensor([[1.0, 1e-3], [-1.0, 1e-3]], dtype=torch.float64)
    torch.testing.assert_close(weights(J), torch.ones(2, dtype=torch.float64))
    J[1, 0] = -5.0
    w = weights(J)
    assert (J.T @ w).norm().item() == pytest.approx(J.sum(0).norm().item())
    assert (J @ (J.T @ w)).min() > 0


def test_singular_but_not_opposed():
    J = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 2.0], [1.0, 1.0]], dtype=torch.float64)
    w = weights(J, scale="paper")
    assert (w * (J @ (J.T @ w)) - 1).abs().max() <= 1e-8
