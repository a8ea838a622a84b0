import pytest
import torch

from cograd.errors import WeightingError
from cograd.weighting import FairGrad, NashMTL

J2 = torch.tensor([[-4.0, 1, 1], [6, 1, 1]], dtype=torch.float64)
J4 = torch.tensor([[3.0, -1, 2, 0, 1], [-2, 1, 1, 1, 0], [0, 2, -3, 1, 1], [1, 1, 1, -2, 4]], dtype=torch.float64)


def weights(J, alpha, **options):
    return FairGrad(alpha, **options)(gramian=J @ J.T)


@pytest.mark.parametrize(
    ("alpha", "expected"), [(1.0, [0.5914611522, 0.4070714829]), (2.0, [0.4713629223, 0.3194542282])]
)
def test_known_answers(alpha, expected):
    # OptMN-Lab/fairgrad, methods/weight_methods.py
    torch.testing.assert_close(weights(J2, alpha, scale="paper"), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize(
    ("alpha", "expected"),
    [
        (2.0, [0.373098353, 0.489883119, 0.292814735, 0.067474116]),
        (0.5, [0.541458291, 0.737631408, 0.499390654, 0.309115633]),
    ],
)
def test_four_losses(alpha, expected):
    # TorchJD 0.18, scipy's least squares
    found = weights(J4, alpha, scale="paper")
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-8)


def test_alpha_one_is_nash_and_alpha_zero_the_sum():
    for scale in ("sum", "paper"):
        torch.testing.assert_close(weights(J4, 1.0, scale=scale), NashMTL(scale)(gramian=J4 @ J4.T))
        assert weights(J4, 0.0, scale=scale).tolist() == [1.0] * 4
    torch.testing.assert_close(weights(J4, 1e-3), torch.ones(4).double(), rtol=0, atol=0.02)


@pytest.mark.parametrize(("alpha", "decades"), [(0.1, 0), (0.2, 1), (0.5, 6), (1.0, 6), (2.0, 6), (10.0, 6)])
def test_it_solves_its_equations(alpha, decades):
    torch.manual_seed(1)
    J = torch.randn(12, 30, dtype=torch.float64) * torch.logspace(0, decades, 12, dtype=torch.float64)[:, None]
    w = weights(J, alpha, scale="paper")
    assert (w ** (1 / alpha) * (J @ (J.T @ w)) - 1).abs().max() <= 1e-8


@pytest.mark.parametrize("alpha", [0.5, 2.0])
def test_how_scaling_one_of_orthogonal_gradients_changes_its_weight(alpha):
    before, after = weights(torch.eye(2).double(), alpha, scale="paper"), None
    after = weights(torch.tensor([[7.0, 0], [0, 1]], dtype=torch.float64), alpha, scale="paper")
    assert (before / after).tolist() == pytest.approx([7 ** (2 * alpha / (1 + alpha)), 1])


def test_scaling_all_gradients_leaves_the_sum_scale():
    torch.testing.assert_close(weights(1e6 * J4, 2.0), weights(J4, 2.0))
    assert (J4.T @ weights(J4, 2.0)).norm().item() == pytest.approx(J4.sum(0).norm().item())


@pytest.mark.parametrize("alpha", [0.1, 0.5, 1.0, 2.0, 10.0])
def test_without_a_direction_for_all_nothing_moves(alpha):
    assert weights(torch.tensor([[1.0, 0], [-1, 1], [-1, -1]]).double(), alpha).tolist() == [0.0] * 3


def test_what_it_refuses():
    with pytest.raises(WeightingError, match="FairGrad: alpha must be a number in"):
        FairGrad(alpha=-1.0)


def test_equations_below_rounding_still_give_an_answer():
    torch.manual_seed(1)
    J = torch.randn(12, 30, dtype=torch.float64) * torch.logspace(0, 6, 12, dtype=torch.float64)[:, None]
    direction = J.T @ weights(J, 0.1)
    assert torch.nn.functional.cosine_similarity(J, direction[None]).min() >= -1e-9
