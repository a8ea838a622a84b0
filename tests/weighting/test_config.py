import pytest
import torch

from cograd.weighting import ConFIG

J2 = torch.tensor([[-4.0, 1, 1], [6, 1, 1]], dtype=torch.float64)


def direction(J):
    return J.T @ ConFIG()(gramian=J @ J.T)


def published(J):
    """tum-pbs/ConFIG, ``ConFIG_update`` with the pseudo-inverse."""
    unit = J / J.norm(dim=1, keepdim=True)
    best = torch.linalg.pinv(unit) @ torch.ones(len(J), dtype=J.dtype)
    best = best / best.norm()
    return (J @ best).sum() * best


def test_known_answer():
    # tum-pbs/ConFIG, conflictfree/grad_operator.py
    expected = torch.tensor([0.1588089758, 2.0706067581, 2.0706067581], dtype=torch.float64)
    torch.testing.assert_close(direction(J2), expected)
    cosines = J2 @ expected / expected.norm() / J2.norm(dim=1)
    torch.testing.assert_close(cosines, torch.full((2,), 0.2817880194, dtype=torch.float64))


@pytest.mark.parametrize("losses", [1, 2, 3, 5, 12])
def test_it_is_the_published_form(losses):
    J = torch.randn(losses, 20, dtype=torch.float64) * torch.logspace(0, 3, losses, dtype=torch.float64)[:, None]
    torch.testing.assert_close(direction(J), published(J), rtol=1e-7, atol=1e-7)


def test_dependent_gradients_as_published():
    J = torch.tensor([[1.0, 0, 0], [1, 0, 0], [0, 2, 0], [1, 1, 0]], dtype=torch.float64)
    torch.testing.assert_close(direction(J), published(J))
    w = ConFIG()(gramian=J @ J.T)
    torch.testing.assert_close(w[0], w[1])


def test_opposite_gradients_stand_still():
    assert ConFIG()(gramian=torch.tensor([[1.0, -2.0], [-2.0, 4.0]])).tolist() == [0.0, 0.0]
