import pytest
import torch

from cograd.weighting import IMTLG

J2 = torch.tensor([[-4.0, 1, 1], [6, 1, 1]], dtype=torch.float64)
J4 = torch.tensor([[3.0, -1, 2, 0, 1], [-2, 1, 1, 1, 0], [0, 2, -3, 1, 1], [1, 1, 1, -2, 4]], dtype=torch.float64)


def weights(J, **options):
    return IMTLG(**options)(gramian=J @ J.T)


def published(J):
    """The paper's closed form, which many codes share."""
    unit = J / J.norm(dim=1, keepdim=True)
    D, U = J[:1] - J[1:], unit[:1] - unit[1:]
    rest = J[0] @ U.T @ torch.linalg.inv(D @ U.T)
    return torch.cat([1 - rest.sum()[None], rest])


def test_known_answer():
    # AvivNavon/nash-mtl, the same algebra in SamsungLabs/MTL and LibMTL
    w = weights(J2, scale="paper")
    torch.testing.assert_close(w, torch.tensor([0.5923303169, 0.4076696831], dtype=torch.float64))
    torch.testing.assert_close(J2.T @ w, torch.tensor([0.0766968306, 1, 1], dtype=torch.float64))


def test_four_losses_and_a_negative_weight():
    expected = torch.tensor([0.366475975, 0.393294203, 0.268193421, -0.027963599], dtype=torch.float64)  # TorchJD
    torch.testing.assert_close(weights(J4, scale="paper"), expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("losses", [2, 3, 5, 12])
def test_it_is_the_published_form_with_equal_projections(losses):
    J = torch.randn(losses, 20, dtype=torch.float64) * torch.logspace(0, 2, losses, dtype=torch.float64)[:, None]
    w = weights(J, scale="paper")
    torch.testing.assert_close(w, published(J), rtol=1e-8, atol=1e-9)
    projections = J @ (J.T @ w) / J.norm(dim=1)
    torch.testing.assert_close(projections, projections[0].expand(losses))


def test_degenerate_gradients():
    assert weights(torch.ones(2, 3, dtype=torch.float64)).tolist() == pytest.approx([1.0, 1.0])
    J = torch.tensor([[1.0, 2.0], [-3.0, -6.0]], dtype=torch.float64)
    assert (J.T @ weights(J)).abs().max() < 1e-14
    J = torch.tensor([[1.0, 0, 0], [1, 0, 0], [0, 1, 0]], dtype=torch.float64)
    torch.testing.assert_close(weights(J), 3 * torch.tensor([0.25, 0.25, 0.5], dtype=torch.float64))


def test_weights_that_sum_to_zero_and_cannot_sum_to_one_are_zeros():
    ones = torch.ones(3, dtype=torch.float64)
    C = torch.tensor([[1.0, 0.9, 0.9], [0.9, 1, 0.65], [0.9, 0.65, 1]], dtype=torch.float64)
    z = torch.linalg.solve(C, ones)
    assert z[0] < 0
    norms = torch.stack([-z[0] / (z[1] + z[2]), torch.tensor(1.0).double(), torch.tensor(1.0).double()])
    assert IMTLG()(gramian=C * norms * norms[:, None]).tolist() == [0.0, 0.0, 0.0]
