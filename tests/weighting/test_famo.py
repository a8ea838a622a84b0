import copy

import pytest
import torch

from cograd.errors import WeightingError
from cograd.weighting import FAMO, Seen

STEPS = [
    ([2.0, 0.5, 4.0], [1.8, 0.49, 3.0]),
    ([1.8, 0.5, 3.0], [1.7, 0.3, 2.9]),
    ([1.5, 0.3, 2.5], [1.5, 0.31, 2.0]),
]
WEIGHTS = [
    [0.18181818376033057, 0.7272727241322314, 0.09090909210743801],
    [0.1933960030082076, 0.6962256124530235, 0.11037838453876886],
    [0.15634465543419426, 0.7561269422673238, 0.08752840229848201],
]
LOGITS = [
    [0.024999976843236748, 0.02499999361950583, -0.02499999499778803],
    [0.046755016044553274, 0.013463505437079238, -0.022518924441821284],
    [0.06834928918691945, 0.009164861956125522, -0.030114652656005596],
]


def seen(**losses):
    values = [0.0 if value is None else value for value in losses.values()]
    here = tuple(value is not None for value in losses.values())
    return Seen(tuple(losses), torch.tensor(values, dtype=torch.float64), here)


def stepped(rule, state, before, after):
    weights, state = rule.weigh(seen(**before), state)
    return weights.tolist(), rule.after(seen(**after), state)


@pytest.mark.parametrize(("scale", "factor"), [("sum", 3), ("paper", 1)])
def test_known_answer(scale, factor):
    """Weights and logits of famo.py of Cranial-XIX/FAMO, lr 0.025 and gamma 0.01, run in float64."""
    state = {}
    for (before, after), expected, logits in zip(STEPS, WEIGHTS, LOGITS, strict=True):
        named = [dict(zip("abc", values, strict=True)) for values in (before, after)]
        weights, state = stepped(FAMO(scale=scale), state, *named)
        assert weights == pytest.approx([factor * w for w in expected], abs=1e-12)
        assert [state["logit"][name].item() for name in "abc"] == pytest.approx(logits, abs=1e-12)


def test_bounds_known_answer():
    """Weights of TorchJD 0.18's FAMO with min_losses (-2, 0.1)."""
    rule = FAMO(bounds={"loss0": -2.0, "loss1": 0.1}, scale="paper")
    weights = rule(torch.tensor([1.0, 0.5], dtype=torch.float64)).tolist()
    assert weights == pytest.approx([0.11764706107266434, 0.8823529389273356], abs=1e-12)
    assert set(rule.mentions) == {"loss0", "loss1"}


def test_weighing_twice_without_the_losses_after_is_refused():
    _, state = FAMO().weigh(seen(a=1.0, b=2.0), {})
    with pytest.raises(WeightingError, match=r"FAMO: the losses after the last update are missing\. .*after\(\)"):
        FAMO().weigh(seen(a=1.0, b=2.0), state)


def test_after_changes_nothing_in_place():
    _, state = FAMO().weigh(seen(a=1.0, b=2.0), {})
    before = copy.deepcopy(state)
    first, second = (FAMO().after(seen(a=0.5, b=2.0), state) for _ in range(2))
    assert repr(state) == repr(before)
    assert repr(first) == repr(second)


def test_equal_progress_leaves_the_logits_where_they_are():
    _, state = stepped(FAMO(gamma=0.0), {}, {"a": 8.0, "b": 8.0}, {"a": 4.0, "b": 4.0})
    assert [value.item() for value in state["logit"].values()] == [0.0, 0.0]


def test_weight_decay_pulls_the_logits_together():
    spread = {"a": torch.tensor(1.0, dtype=torch.float64), "b": torch.tensor(-1.0, dtype=torch.float64)}
    _, state = stepped(FAMO(gamma=0.1), {"logit": spread}, {"a": 1.0, "b": 1.0}, {"a": 1.0, "b": 1.0})
    assert state["logit"]["a"] < 1
    assert state["logit"]["b"] > -1


def test_a_loss_that_is_absent_before_or_after_keeps_its_logit():
    _, state = stepped(FAMO(), {}, {"a": 2.0, "b": 1.0, "c": 3.0}, {"a": 1.0, "b": 0.9, "c": 2.0})
    kept = dict(state["logit"])
    _, state = stepped(FAMO(), state, {"a": 2.0, "b": None, "c": 3.0}, {"a": 1.0, "b": 1.0, "c": None})
    assert state["logit"]["b"] is kept["b"]
    assert state["logit"]["c"] is kept["c"]
    assert state["logit"]["a"] != kept["a"]
    assert state["count"] == {"a": 2, "b": 1, "c": 1}
    _, state = stepped(FAMO(), state, {"a": 2.0}, {"a": None, "b": 1.0})
    assert state["count"] == {"a": 2, "b": 1, "c": 1}
    assert FAMO().weigh(seen(b=1.0), state)[0].item() == pytest.approx(1.0)


@pytest.mark.parametrize("value", [-1e-3, torch.nan])
def test_a_loss_below_its_bound_is_reported(value):
    assert FAMO()(torch.tensor([value, 1.0])).isnan().all()


def test_a_loss_at_its_bound_takes_the_weight():
    assert FAMO()(torch.tensor([0.0, 1.0])).tolist() == pytest.approx([2.0, 2e-8])


def test_half_precision_is_kept_in_float32():
    look = Seen(("a", "b"), torch.tensor([3.0, 1.0], dtype=torch.bfloat16), (True, True))
    _, state = FAMO().weigh(look, {})
    state = FAMO().after(look, state)
    assert {value.dtype for value in state["logit"].values()} == {torch.float32}


@pytest.mark.parametrize("kept", [1, 2, 3, 4, 5])
def test_it_resumes_before_and_between_weighing_and_looking_back(kept, same):
    def run(cut):
        rule, state, history = FAMO(), {}, []
        for half in range(6):
            if half == cut:
                rule, state = FAMO(), copy.deepcopy(state)
            values = dict(zip("abc", STEPS[half // 2][half % 2], strict=True))
            if half % 2:
                state = rule.after(seen(**values), state)
            else:
                weights, state = rule.weigh(seen(**values), state)
                history.append(weights)
        return history

    same(run(None), run(kept))


def test_it_trains_losses_of_very_different_size():
    torch.manual_seed(0)
    net, x = torch.nn.Linear(3, 2), torch.randn(16, 3)

    def losses():
        out = net(x)
        return torch.stack([1000 * ((out[:, 0] - 1).square().mean() + 0.1), out[:, 1].square().mean() + 0.1])

    optimizer, rule, state = torch.optim.SGD(net.parameters(), 0.02), FAMO(scale="paper"), {}
    first = losses().detach()
    for _ in range(50):
        now = losses()
        weights, state = rule.weigh(Seen(("a", "b"), now.detach(), (True, True)), state)
        optimizer.zero_grad()
        (weights * now).sum().backward()
        optimizer.step()
        state = rule.after(Seen(("a", "b"), losses().detach(), (True, True)), state)
    assert (losses() < first).all()


@pytest.mark.parametrize("options", [{"lr": -1}, {"gamma": "none"}])
def test_a_number_out_of_range_is_refused(options):
    with pytest.raises(WeightingError, match=rf"FAMO: {next(iter(options))} must be a number in .*; found"):
        FAMO(**options)
