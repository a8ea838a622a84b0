import pytest
import torch

from cograd.weighting import DualProj

J2 = torch.tensor([[-4.0, 1, 1], [6, 1, 1]], dtype=torch.float64)
J3 = torch.tensor([[1.0, 0, 0], [-0.6, 0.8, 0], [-0.2, -0.9, 1.5]], dtype=torch.float64)


def weights(J, **options):
    return DualProj(**options)(gramian=J @ J.T)


def test_known_answer():
    # TorchJD 0.18, whose regularisation moves the fourth digit
    w = weights(J2, scale="paper")
    torch.testing.assert_close(w, torch.tensor([0.6109210468, 0.5]).double(), rtol=0, atol=1e-3)
    torch.testing.assert_close(w, torch.tensor([0.5 + 1 / 9, 0.5], dtype=torch.float64))


def test_three_losses():
    # TorchJD 0.18 with reg_eps=1e-12
    expected = torch.tensor([1 / 3, 0.4, 1 / 3], dtype=torch.float64)
    torch.testing.assert_close(weights(J3, scale="paper"), expected, rtol=0, atol=1e-8)


def test_sum_scale_and_preference():
    torch.testing.assert_close(weights(J3), 3 * weights(J3, scale="paper"))
    J = torch.tensor([[1.0, 0.5], [0.0, 3.0]], dtype=torch.float64)
    torch.testing.assert_close(weights(J, preference={"loss0": 0.3}), torch.tensor([0.3, 1.0]).double())


@pytest.mark.parametrize("imbalance", [1.0, 300.0, 1e6])
def test_it_is_the_nearest_point_without_conflict(imbalance):
    torch.manual_seed(0)
    for _ in range(10):
        J = torch.randn(4, 6, dtype=torch.float64)
        J[1] *= imbalance
        total, direction = J.sum(0), J.T @ weights(J)
        assert torch.nn.functional.cosine_similarity(J, direction[None]).min() >= -1e-6
        # of a projection onto a cone: the rest is orthogonal to it
        assert abs((total - direction) @ direction) <= 1e-7 * total.norm() ** 2


def test_where_only_zero_is_safe_nothing_moves():
    assert weights(torch.tensor([[1.0, 0], [-1, 1], [-1, -1]]).double()).tolist() == [0.0] * 3
    assert weights(torch.tensor([[1.0, 2], [-2, -4]]).double()).tolist() == [0.0, 0.0]
