import numpy as np
import pytest
import torch

from cograd.errors import WeightingError
from cograd.weighting import MGDA, CAGrad

J2 = torch.tensor([[-4.0, 1, 1], [6, 1, 1]], dtype=torch.float64)
J4 = torch.tensor([[3.0, -1, 2, 0, 1], [-2, 1, 1, 1, 0], [0, 2, -3, 1, 1], [1, 1, 1, -2, 4]], dtype=torch.float64)


def weights(J, c=0.5, **options):
    return CAGrad(c, **options)(gramian=J @ J.T)


@pytest.mark.parametrize(("c", "expected"), [(0.2, [0.6734013584, 1.0816496604]), (0.5, [0.1835034102, 1.2041241474])])
def test_known_answers(c, expected):
    # the authors' code without rescaling (Cranial-XIX/CAGrad, nash-mtl), the paper's Eq. 3
    direction = J2.T @ weights(J2, c, scale="paper")
    torch.testing.assert_close(direction, torch.tensor([expected[0], expected[1], expected[1]]).double())


def test_four_losses():
    expected = torch.tensor([0.364635597, 0.642085341, 0.298259065, 0.25], dtype=torch.float64)  # TorchJD 0.18
    torch.testing.assert_close(weights(J4, scale="paper"), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("c", [0.3, 0.8, 2.0])
def test_the_worst_off_loss_gains_most_within_the_ball(seed, c):
    rng = np.random.default_rng(seed)
    J = torch.tensor(rng.standard_normal((4, 6)))
    mean, direction = J.mean(0), J.T @ weights(J, c, scale="paper")
    assert (direction - mean).norm() <= c * mean.norm() * (1 + 1e-9)
    best = (J @ direction).min()
    for _ in range(300):
        step = torch.tensor(rng.standard_normal(6))
        near = direction + 10 ** -rng.uniform(0, 4) * step / step.norm()
        offset = near - mean
        near = mean + offset * min(1.0, float(c * mean.norm() / offset.norm()))
        assert (J @ near).min() <= best + 1e-9 * mean.norm() ** 2


def test_sum_scale_and_the_plain_sum():
    torch.testing.assert_close(weights(J4), 4 * weights(J4, scale="paper"))
    assert weights(J4, c=0).tolist() == [1.0] * 4
    torch.testing.assert_close(weights(torch.eye(3).double()), torch.full((3,), 1.5).double())


def test_a_large_radius_points_along_the_shortest_vector():
    shortest, direction = J4.T @ MGDA()(gramian=J4 @ J4.T), J4.T @ weights(J4, c=1e7)
    torch.testing.assert_close(direction / direction.norm(), shortest / shortest.norm(), rtol=1e-5, atol=1e-6)


def test_small_gradients_are_not_zero():
    torch.testing.assert_close(weights(J4 * 1e-9), weights(J4))


def test_gradients_that_cancel_in_the_mean():
    J = torch.tensor([[1.0, 2.0], [-1.0, -2.0]], dtype=torch.float64)
    assert weights(J).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("c", [0.2, 0.5, 0.9])
def test_where_the_shortest_vector_vanishes_the_mean_is_projected(c):
    J = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.2, 1.0]], dtype=torch.float64)
    direction = J.T @ weights(J, c, scale="paper")
    assert (J @ direction).min() >= -1e-9
    torch.testing.assert_close(direction, torch.tensor([0.0, 1 / 3], dtype=torch.float64))


def test_a_loss_alone_keeps_its_weight():
    assert CAGrad()(gramian=torch.tensor([[9.0]])).tolist() == [1.0]
    assert CAGrad(scale="paper")(gramian=torch.tensor([[9.0]])).tolist() == [1.5]


def test_what_it_refuses():
    with pytest.raises(WeightingError, match="CAGrad: c must be a number in"):
        CAGrad(c=-1.0)
