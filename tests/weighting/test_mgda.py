import pytest
import torch

from cograd.errors import WeightingError
from cograd.weighting import MGDA

J2 = torch.tensor([[-4.0, 1, 1], [6, 1, 1]], dtype=torch.float64)
J3 = torch.tensor([[1.0, 0, 0], [-0.6, 0.8, 0], [-0.2, -0.9, 1.5]], dtype=torch.float64)


def weights(J, **options):
    return MGDA(**options)(gramian=J @ J.T)


def test_known_answer():
    # isl-org/MultiObjectiveOptimization, min_norm_solvers.py, and exactly
    w = weights(J2, scale="paper")
    torch.testing.assert_close(w, torch.tensor([0.6, 0.4], dtype=torch.float64))
    torch.testing.assert_close(J2.T @ w, torch.tensor([0.0, 1.0, 1.0], dtype=torch.float64))


def test_three_losses_as_frank_wolfe_finds_in_the_limit():
    expected = torch.tensor([0.407407407, 0.444444444, 0.148148148], dtype=torch.float64)  # TorchJD 0.18
    torch.testing.assert_close(weights(J3, scale="paper"), expected, rtol=0, atol=1e-8)


def test_the_sum_scale_multiplies_by_the_number_of_losses():
    torch.testing.assert_close(weights(J3), 3 * weights(J3, scale="paper"))


def test_a_dominating_gradient_is_not_clipped():
    J = torch.tensor([[1.0, 0.0], [50.0, 1.0]], dtype=torch.float64)
    assert weights(J, scale="paper").tolist() == [1.0, 0.0]


def test_equal_gradients_share_and_the_shorter_of_two_parallel_ones_has_all():
    assert weights(torch.ones(2, 3, dtype=torch.float64)).tolist() == pytest.approx([1.0, 1.0], abs=1e-14)
    assert weights(torch.tensor([[1.0, 0.0], [2.0, 0.0]])).tolist() == [2.0, 0.0]


def test_opposite_gradients_cancel():
    J = torch.tensor([[1.0, 2.0], [-3.0, -6.0]], dtype=torch.float64)
    assert (J.T @ weights(J)).abs().max() < 1e-14
    torch.testing.assert_close(weights(J), torch.tensor([1.5, 0.5], dtype=torch.float64))


def test_a_scale_that_does_not_exist():
    with pytest.raises(WeightingError, match="MGDA: scale must be 'sum' or 'paper'; found 'mean'"):
        MGDA(scale="mean")
