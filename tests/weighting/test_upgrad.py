import pytest
import torch

from cograd.errors import WeightingError
from cograd.weighting import UPGrad

J2 = torch.tensor([[-4.0, 1, 1], [6, 1, 1]], dtype=torch.float64)
J3 = torch.tensor([[1.0, 0, 0], [-0.6, 0.8, 0], [-0.2, -0.9, 1.5]], dtype=torch.float64)


def weights(J, **options):
    return UPGrad(**options)(gramian=J @ J.T)


def test_known_answer():
    # TorchJD 0.18, whose regularisation moves the fourth digit
    w = weights(J2, scale="paper")
    torch.testing.assert_close(w, torch.tensor([1.1109210468, 0.7894310312]).double(), rtol=0, atol=1e-3)
    torch.testing.assert_close(w, torch.tensor([1 / 2 + 11 / 18, 1 / 2 + 11 / 38], dtype=torch.float64))


def test_three_losses():
    # TorchJD 0.18 with reg_eps=1e-12
    expected = torch.tensor([0.840686275, 0.949209246, 0.479891227], dtype=torch.float64)
    torch.testing.assert_close(weights(J3, scale="paper"), expected, rtol=0, atol=1e-8)


def test_sum_scale_and_preference():
    torch.testing.assert_close(weights(J3), 3 * weights(J3, scale="paper"))
    parts = [weights(J3, preference={f"loss{j}": float(i == j) for j in range(3)}) for i in range(3)]
    torch.testing.assert_close(parts[0] + parts[1] + parts[2], weights(J3))
    torch.testing.assert_close(weights(J3, preference={"loss1": 2.0}), weights(J3) + parts[1])
    assert list(UPGrad({"loss1": 2.0}).mentions) == ["loss1"]


def test_without_conflict_it_is_the_weighted_sum():
    J = torch.tensor([[1.0, 0.5], [0.0, 3.0]], dtype=torch.float64)
    torch.testing.assert_close(weights(J, preference={"loss0": 0.3}), torch.tensor([0.3, 1.0]).double())


@pytest.mark.parametrize("imbalance", [1.0, 30.0, 300.0, 1e6])
def test_no_conflict_however_long_one_gradient_is(imbalance):
    torch.manual_seed(0)
    for _ in range(20):
        J = torch.randn(4, 8, dtype=torch.float64)
        J[0] *= imbalance
        direction = J.T @ weights(J)
        assert torch.nn.functional.cosine_similarity(J, direction[None]).min() >= -1e-6


def test_scaling_one_gradient_scales_its_part_alone():
    part = J3.T @ weights(J3, preference={"loss1": 0.0, "loss2": 0.0})
    J = J3 * torch.tensor([[7.0], [1.0], [1.0]])
    torch.testing.assert_close(J.T @ weights(J), J3.T @ weights(J3) + 6 * part)


def test_where_only_zero_is_safe_nothing_moves():
    J = torch.tensor([[1.0, 0], [-1, 1], [-1, -1]], dtype=torch.float64)
    assert weights(J).tolist() == [0.0] * 3
    assert weights(torch.tensor([[1.0, 2], [-2, -4]]).double()).tolist() == [0.0, 0.0]


def test_opposite_losses_do_not_stop_a_third():
    J = torch.tensor([[1.0, 0.0], [-2.0, 0.0], [0.5, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(J.T @ weights(J), torch.tensor([0.0, 1.0], dtype=torch.float64))


@pytest.mark.parametrize("preference", [{"a": -1.0}, {"a": "much"}, [1.0]])
def test_what_it_refuses(preference):
    with pytest.raises(WeightingError, match="UPGrad"):
        UPGrad(preference)
