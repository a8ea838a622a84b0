import io
import math

import pytest
import torch

from cograd.errors import WeightingError
from cograd.weighting import GradVac, PCGrad, Seen
from cograd.weighting._pcgrad import orders

NAMES = ("a", "b", "c", "d")


def look(J, present=None, names=None):
    here = present or (True,) * len(J)
    J = J * torch.tensor(here)[:, None]
    return Seen(names or NAMES[: len(J)], None, here, gramian=J @ J.T)


def published(J, goal, beta, order):
    """Algorithm 1 on the vectors themselves; ``goal`` is updated in place."""
    total = torch.zeros_like(J[0])
    for i, others in enumerate(order):
        g = J[i].clone()
        for j in others:
            cos = float(g @ J[j] / g.norm() / J[j].norm())
            aim = goal[i][j]
            if cos < aim:
                g = g + J[j] * g.norm() * (aim * math.sqrt(1 - cos**2) - cos * math.sqrt(1 - aim**2)) / (
                    J[j].norm() * math.sqrt(1 - aim**2)
                )
            goal[i][j] = (1 - beta) * aim + beta * cos
        total += g
    return total


@pytest.mark.parametrize("losses", [2, 3, 4])
def test_it_is_the_published_algorithm_over_many_steps(losses):
    torch.manual_seed(2)
    rule, goal = GradVac(beta=0.3, seed=5), [[0.0] * losses for _ in range(losses)]
    state, raised = rule.init(()), 0
    for _ in range(12):
        J = torch.randn(losses, 5, dtype=torch.float64) + 0.7
        J[0] *= 100
        order, _ = orders(losses, state)
        weights, state = rule.weigh(look(J), state)
        torch.testing.assert_close(J.T @ weights, published(J, goal, 0.3, order.tolist()), rtol=1e-9, atol=1e-9)
        raised += bool((weights > 1 + 1e-9).any())
        for i in range(losses):
            for j in range(losses):
                if i != j:
                    assert state["cosine"][NAMES[i]][NAMES[j]] == pytest.approx(goal[i][j], rel=1e-9)
    assert raised > 3


def test_the_first_step_is_that_of_pcgrad():
    J = torch.tensor([[1.0, 0, 0], [-0.6, 0.8, 0], [-0.2, -0.9, 1.5]], dtype=torch.float64)
    torch.testing.assert_close(GradVac(seed=4)(gramian=J @ J.T), PCGrad(seed=4)(gramian=J @ J.T))


def test_after_a_correction_the_cosine_is_the_goal():
    state = {"seed": 0, "draws": 0, "cosine": {"a": {"b": 0.5}, "b": {"a": -1.0}}}
    J = torch.tensor([[2.0, 0.0], [0.0, 3.0]], dtype=torch.float64)
    weights, _ = GradVac(beta=0.0).weigh(look(J), state)
    first = J.T @ weights - J[1]  # the second is as it was: its goal is met
    assert float(first @ J[1] / first.norm() / J[1].norm()) == pytest.approx(0.5)


def test_an_absent_loss_keeps_its_pairs():
    J = torch.randn(3, 4, dtype=torch.float64)
    rule = GradVac(beta=0.5, seed=0)
    _, state = rule.weigh(look(J), rule.init(()))
    weights, after = rule.weigh(look(J, (True, False, True)), state)
    assert weights[1] == 0
    assert after["cosine"]["b"] == state["cosine"]["b"]
    assert after["cosine"]["a"]["b"] == state["cosine"]["a"]["b"]
    assert after["cosine"]["a"]["c"] != state["cosine"]["a"]["c"]


def test_a_new_loss_starts_at_zero():
    J = torch.randn(3, 4, dtype=torch.float64)
    rule = GradVac(beta=0.5, seed=0)
    _, state = rule.weigh(look(J[:2]), rule.init(("a", "b")))
    _, after = rule.weigh(look(J), state)
    assert set(after["cosine"]["c"]) == {"a", "b"}


def test_it_resumes_from_a_file():
    torch.manual_seed(3)
    Js = torch.randn(6, 3, 4, dtype=torch.float64)
    rule, file = GradVac(beta=0.4, seed=9), io.BytesIO()
    state, expected = rule.init(()), []
    for step, J in enumerate(Js):
        if step == 3:
            torch.save(state, file)
        weights, state = rule.weigh(look(J), state)
        expected.append(weights)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    for J, w in zip(Js[3:], expected[3:], strict=True):
        weights, state = rule.weigh(look(J), state)
        torch.testing.assert_close(weights, w, rtol=0, atol=0)


def test_goals_out_of_reach_stay_finite():
    equal, other = torch.ones(2, 3).double(), torch.tensor([[1.0, 0, 0], [0, 1, 0]]).double()
    rule = GradVac(beta=0.9)
    state = rule.init(())
    for _ in range(40):
        weights, state = rule.weigh(look(equal), state)
        torch.testing.assert_close(weights, torch.ones(2).double(), rtol=0, atol=1e-3)
    assert state["cosine"]["a"]["b"] == 1.0
    assert rule.weigh(look(other), state)[0].abs().max() < 2e3


def test_opposite_gradients_cancel():
    J = torch.tensor([[1.0, 2.0], [-3.0, -6.0]], dtype=torch.float64)
    assert (J.T @ GradVac()(gramian=J @ J.T)).abs().max() < 1e-14


def test_what_it_refuses():
    with pytest.raises(WeightingError, match="GradVac: beta must be a number in"):
        GradVac(beta=1.0)
