import math

import pytest
import torch

from cograd.errors import WeightingError
from cograd.weighting import Seen, Stateful, Uncertainty

LOSSES = torch.tensor([2.0, 0.5], dtype=torch.float64)
S = {"loss0": torch.tensor(0.3, dtype=torch.float64), "loss1": torch.tensor(-0.4, dtype=torch.float64)}


def one_step(rule, losses=LOSSES, s=S):
    """The weights, and how far each s moved for a learning rate of one."""
    names = tuple(s)
    weights, state = rule.weigh(Seen(names, losses, (True,) * len(names)), {"s": s})
    return weights.tolist(), [(state["s"][name] - s[name]).item() / rule.lr for name in names]


def test_regression_known_answer():
    """Gradients of methods/weight_methods.py of AvivNavon/nash-mtl."""
    weights, moved = one_step(Uncertainty(lr=1e-3))
    assert weights == pytest.approx([0.3704091103, 0.7459123488], abs=1e-9)
    assert moved == pytest.approx([0.2408182207, -0.1270438256], abs=1e-9)


def test_revised_known_answer():
    """Gradients of 0.5 / c**2 * loss + log(1 + c**2), from autograd, with c = exp(s / 2)."""
    weights, moved = one_step(Uncertainty("revised", lr=1e-3))
    assert weights == pytest.approx([0.370409110340859, 0.7459123488206353], abs=1e-12)
    assert moved == pytest.approx([0.166375703870059, -0.028356165477230345], abs=1e-12)


@pytest.mark.parametrize(
    ("kind", "objective"),
    [
        ("regression", lambda s, loss: (-s).exp() * loss / 2 + s / 2),
        ("classification", lambda s, loss: (-s).exp() * loss + s / 2),
        ("revised", lambda s, loss: (-s).exp() * loss / 2 + (1 + s.exp()).log()),
    ],
)
def test_weights_and_steps_are_the_gradients_of_the_objective(kind, objective):
    s = torch.stack([*S.values()]).requires_grad_()
    losses = LOSSES.clone().requires_grad_()
    by_loss, by_s = torch.autograd.grad(objective(s, losses).sum(), [losses, s])
    weights, moved = one_step(Uncertainty(kind, lr=1e-3))
    assert weights == pytest.approx(by_loss.tolist(), abs=1e-12)
    assert moved == pytest.approx((-by_s).tolist(), abs=1e-9)


@pytest.mark.parametrize(
    ("kind", "settled"),
    [("regression", 1 / (2 * 3.0)), ("classification", 1 / (2 * 3.0)), ("revised", 2 / (3 + math.sqrt(33)))],
)
def test_a_constant_loss_reaches_the_best_weight_from_both_sides(kind, settled, weights_over):
    for start in (0.01, 300.0):
        batches = [{"a": start}] * 200 + [{"a": 3.0}] * 400
        history, _ = weights_over(Uncertainty(kind, lr=0.1), batches)
        assert history[-1]["a"] == pytest.approx(settled, rel=1e-6)


@pytest.mark.parametrize("kind", ["regression", "classification", "revised"])
def test_a_huge_loss_does_not_throw_s_past_its_best(kind, weights_over):
    history, _ = weights_over(Uncertainty(kind, lr=1.0), [{"a": 1e6}, {"a": 1e6}, {"a": 1e6}])
    assert history[1] == pytest.approx(history[2])
    assert 1e-7 < history[2]["a"] < 1e-5


def test_each_loss_may_have_its_own_kind(weights_over):
    rule = Uncertainty({"b": "classification", "c": "revised"})
    assert weights_over(rule, [{"a": 1.0, "b": 1.0, "c": 1.0}])[0] == [{"a": 0.5, "b": 1.0, "c": 0.5}]
    assert set(rule.mentions) == {"b", "c"}


def test_an_absent_loss_keeps_its_s(weights_over):
    batches = [{"a": 3.0}, {"a": None, "b": 2.0}, {"a": 3.0, "b": 2.0}]
    with_gap, _ = weights_over(Uncertainty(), batches)
    without, _ = weights_over(Uncertainty(), [{"a": 3.0}, {"a": 3.0}])
    assert with_gap[2]["a"] == without[1]["a"]
    assert with_gap[1]["b"] == 0.5


def test_a_loss_of_zero_has_a_finite_weight(weights_over):
    history, _ = weights_over(Uncertainty(lr=5.0, floor=1e-3), [{"a": 0.0}] * 50)
    assert history[-1]["a"] == pytest.approx(500)


def test_a_negative_loss_is_reported():
    assert Uncertainty()(torch.tensor([-1.0, 1.0])).isnan().tolist() == [True, False]


@pytest.mark.parametrize("cut", [1, 2])
def test_it_resumes(cut, resumed):
    batches = [{"a": 2.0, "b": None}, {"a": 3.0, "b": 5.0}, {"a": 7.0, "b": 1.0}]
    assert resumed(Uncertainty(), batches, cut, Stateful) == resumed(Uncertainty(), batches, None, Stateful)


@pytest.mark.parametrize("kind", ["poisson", {"a": "gauss"}, None])
def test_an_unknown_kind_is_refused(kind):
    with pytest.raises(WeightingError, match=r"Uncertainty: kind must be one of 'regression', .*; found"):
        Uncertainty(kind)


@pytest.mark.parametrize("options", [{"lr": -1}, {"floor": 0}, {"lr": "fast"}])
def test_a_number_out_of_range_is_refused(options):
    with pytest.raises(WeightingError, match=rf"Uncertainty: {next(iter(options))} must be a number in .*; found"):
        Uncertainty(**options)
