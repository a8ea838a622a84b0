import pytest
import torch

from cograd.errors import WeightingError
from cograd.weighting import AlignedMTL

J2 = torch.tensor([[-4.0, 1, 1], [6, 1, 1]], dtype=torch.float64)
J4 = torch.tensor([[3.0, -1, 2, 0, 1], [-2, 1, 1, 1, 0], [0, 2, -3, 1, 1], [1, 1, 1, -2, 4]], dtype=torch.float64)


def weights(J, mode="min"):
    return AlignedMTL(mode)(gramian=J @ J.T)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("min", [1.1181438313, 0.8165221362]),
        ("median", [1.1181438313, 0.8165221362]),
        ("rmse", [3.0217312869, 2.2066127955]),
    ],
)
def test_known_answers(mode, expected):
    # SamsungLabs/MTL, code/optim/aligned/solver.py
    torch.testing.assert_close(weights(J2, mode), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("min", [0.883473927, 1.018409844, 0.720351451, 0.174853257]),
        ("median", [1.527887988, 1.761247411, 1.245782467, 0.302392842]),
        ("rmse", [2.012847207, 2.320276067, 1.641199995, 0.398373828]),
    ],
)
def test_four_losses(mode, expected):
    # TorchJD 0.18 with a preference of ones
    torch.testing.assert_close(weights(J4, mode), torch.tensor(expected).double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 1e6])
def test_the_aligned_gradients_are_orthogonal_and_as_long_as_the_shortest_component(scale):
    torch.manual_seed(4)
    J = torch.randn(5, 9, dtype=torch.float64)
    J[0] *= scale
    U, lengths, V = torch.linalg.svd(J, full_matrices=False)
    torch.testing.assert_close(J.T @ weights(J), lengths[-1] * (U @ V).sum(0), rtol=1e-6, atol=1e-6)


def test_degenerate_gradients():
    torch.testing.assert_close(weights(torch.ones(3, 2, dtype=torch.float64)), torch.ones(3).double())
    assert weights(torch.tensor([[1.0, 2], [-1, -2]])).abs().max() < 1e-15
    J = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 1, 0]], dtype=torch.float64)
    torch.testing.assert_close(weights(J), torch.tensor([1.0, 0.5**0.5, 0.5**0.5], dtype=torch.float64))


def test_scaling_all_gradients_changes_nothing():
    torch.testing.assert_close(weights(1e-8 * J4), weights(J4))


def test_what_it_refuses():
    with pytest.raises(WeightingError, match="scale_mode must be 'min', 'median' or 'rmse'; found 'mean'"):
        AlignedMTL("mean")
