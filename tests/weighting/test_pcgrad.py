import itertools

import numpy as np
import pytest
import torch

from cograd.weighting import PCGrad, Seen
from cograd.weighting._pcgrad import orders, without_conflict

J2 = torch.tensor([[-4.0, 1, 1], [6, 1, 1]], dtype=torch.float64)
J3 = torch.tensor([[1.0, 0, 0], [-0.6, 0.8, 0], [-0.2, -0.9, 1.5]], dtype=torch.float64)
BY_ORDER = {  # tianheyu927/PCGrad, PCGrad_tf.py, each order used for all three
    "012": [0.1254193548, 0.5843870968, 2.1193548387],
    "021": [0.1254193548, 0.7198709677, 1.9451612903],
    "102": [0.5574193548, 0.4883870968, 2.1193548387],
    "120": [0.6038709677, 0.5232258065, 2.0612903226],
    "201": [0.1718709677, 0.7547096774, 1.8870967742],
    "210": [0.6038709677, 0.6587096774, 1.8870967742],
}


def published(J, order):
    """Algorithm 1 on the vectors themselves; ``order[i]`` is that of loss i."""
    total = torch.zeros_like(J[0])
    for i, others in enumerate(order):
        g = J[i].clone()
        for j in others:
            if g @ J[j] < 0:
                g = g - (g @ J[j]) / (J[j] @ J[j]) * J[j]
        total += g
    return total


def direction(J, order):
    norms = J.norm(dim=1).numpy()
    cosines = (J @ J.T).numpy() / norms / norms[:, None]
    return J.T @ torch.from_numpy(norms @ without_conflict(cosines, np.array(order)) / norms)


def test_known_answer():
    # AvivNavon/nash-mtl and tianheyu927/PCGrad
    expected = torch.tensor([0.5847953216, 3.8011695906, 3.8011695906], dtype=torch.float64)
    torch.testing.assert_close(J2.T @ PCGrad()(gramian=J2 @ J2.T), expected)


@pytest.mark.parametrize("order", BY_ORDER)
def test_known_answers_in_each_order(order):
    each = [[int(j) for j in order if int(j) != i] for i in range(3)]
    torch.testing.assert_close(direction(J3, each), torch.tensor(BY_ORDER[order], dtype=torch.float64))


def test_every_combination_of_orders():
    for each in itertools.product(*[itertools.permutations([j for j in range(3) if j != i]) for i in range(3)]):
        torch.testing.assert_close(direction(J3, each), published(J3, each))


@pytest.mark.parametrize("losses", [4, 9])
def test_the_published_loop_at_mixed_scales(losses):
    J = torch.randn(losses, 5, dtype=torch.float64) * torch.logspace(0, 4, losses, dtype=torch.float64)[:, None]
    order, _ = orders(losses, {"seed": 5, "draws": 0})
    torch.testing.assert_close(direction(J, order), published(J, order.tolist()), rtol=1e-9, atol=1e-9)


def test_each_order_is_one_of_the_others_and_all_occur():
    state, found = {"seed": 0, "draws": 0}, set()
    for _ in range(60):
        order, later = orders(3, state)
        state |= later
        for i, row in enumerate(order.tolist()):
            assert sorted(row) == [j for j in range(3) if j != i]
        found.add(tuple(order[:, 0].tolist()))
    assert len(found) == 8


def test_the_seed_decides_and_each_step_draws_anew():
    rule, look = PCGrad(seed=3), Seen(("a", "b", "c"), None, (True,) * 3, gramian=J3 @ J3.T)
    state, first = rule.init(look.names), []
    for _ in range(8):
        weights, state = rule.weigh(look, state)
        first.append(weights)
    assert state == {"seed": 3, "draws": 8}
    assert len({tuple(w.tolist()) for w in first}) > 1
    torch.testing.assert_close(rule.weigh(look, rule.init(()))[0], first[0], rtol=0, atol=0)


def test_two_losses_draw_nothing():
    rule = PCGrad(seed=1)
    look = Seen(("a", "b"), None, (True, True), gramian=J2 @ J2.T)
    assert rule.weigh(look, rule.init(()))[1] == {"seed": 1, "draws": 0}


def test_without_a_seed_torch_decides():
    torch.manual_seed(7)
    one, two = PCGrad().init(()), PCGrad().init(())
    torch.manual_seed(7)
    assert PCGrad().init(()) == one != two


def test_opposite_gradients_cancel():
    J = torch.tensor([[1.0, 2.0], [-3.0, -6.0]], dtype=torch.float64)
    assert (J.T @ PCGrad()(gramian=J @ J.T)).abs().max() < 1e-14
