"""What every rule for combining losses promises."""

import copy
import dataclasses
import inspect
import io
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import cograd
from cograd import weighting
from cograd.weighting import Seen, Stateful, Weighting

RULES = {
    "Fixed": weighting.Fixed({"a": 0.7, "loss1": 2.0}),
    "Scheduled": weighting.Scheduled({"a": lambda step: 1 / (1 + step), "b": 3.0}),
    "Log": weighting.Log(),
    "FirstValue": weighting.FirstValue(),
    "RunningMean": weighting.RunningMean(beta=0.7),
    "RunningStd": weighting.RunningStd(beta=0.7),
    "GeometricMean": weighting.GeometricMean(),
    "Uncertainty": weighting.Uncertainty({"a": "classification", "b": "revised"}, lr=0.3),
    "IMTLL": weighting.IMTLL(lr=0.3),
    "SoftOptimalUncertainty": weighting.SoftOptimalUncertainty(),
    "DWA": weighting.DWA(window=1),
    "Random": weighting.Random(seed=0),
    "SoftAdapt": weighting.SoftAdapt(),
    "ReLoBRaLo": weighting.ReLoBRaLo(alpha=0.7, rho=0.5, temperature=1.0, seed=0),
    "CoV": weighting.CoV(),
    "SmoothTchebycheff": weighting.SmoothTchebycheff(preference={"a": 2.0}, reference={"loss1": 0.1}),
    "FAMO": weighting.FAMO(bounds={"a": -0.5}),
}
BALANCING = {name: RULES[name] for name in ("SoftOptimalUncertainty", "DWA", "SoftAdapt", "ReLoBRaLo", "CoV")} | {
    "FAMO": weighting.FAMO(),
    "SmoothTchebycheff": weighting.SmoothTchebycheff(),
}
INDEPENDENT = ("Fixed", "Scheduled", "Log", "FirstValue", "RunningMean", "RunningStd", "Uncertainty", "IMTLL")
NAMES = ("a", "b", "c")
BATCHES = [[3.0, 0.5, 20.0], [2.0, None, 30.0], [4.0, 0.25, 10.0], [None, None, 5.0], [1.0, 2.0, None]]

every_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
every_ordered_rule = pytest.mark.parametrize(
    "rule", [pytest.param(rule, id=name) for name, rule in RULES.items() if name != "Random"]
)
every_balancing_rule = pytest.mark.parametrize("rule", BALANCING.values(), ids=BALANCING)


def seen(values, step=0, names=NAMES, dtype=torch.float64):
    losses = torch.tensor([0.0 if v is None else v for v in values], dtype=dtype)
    return Seen(tuple(names), losses, tuple(v is not None for v in values), step)


def weighed(rule, look, state):
    """The weights, and the state once the step is done: the losses after it are a little smaller."""
    weights, state = rule.weigh(look, state)
    if "after" in rule.needs:
        state = rule.after(dataclasses.replace(look, losses=look.losses * look.losses / (1 + look.losses)), state)
    return weights, state


def run(rule, batches, names=NAMES, dtype=torch.float64):
    state, history = rule.init(()), []
    for step, values in enumerate(batches):
        weights, state = weighed(rule, seen(values, step, names, dtype), state)
        history.append(weights)
    return torch.stack(history), state


def test_every_public_rule_is_tested_here():
    public = [getattr(weighting, name) for name in weighting.__all__]
    rules = {x for x in public if inspect.isclass(x) and issubclass(x, Weighting) and x is not Weighting}
    assert {type(rule) for rule in RULES.values()} == {
        rule for rule in rules if not rule.needs & {"gramian", "abs", "jacobian"}
    }


@every_rule
def test_the_same_input_gives_the_same_output_and_nothing_is_changed(rule, same):
    state = rule.init(())
    for step, values in enumerate(BATCHES):
        look, before = seen(values, step), copy.deepcopy(state)
        losses = look.losses.clone()
        weights, after = weighed(rule, look, state)
        again, after_again = weighed(rule, look, state)
        same(weights, again)
        same(plain(after), plain(after_again))
        same(plain(before), plain(state))
        same(losses, look.losses)
        state = after


@every_rule
def test_a_later_state_does_not_change_an_earlier_one(rule, same):
    state = rule.init(())
    kept = []
    for step, values in enumerate(BATCHES):
        kept.append((state, copy.deepcopy(state)))
        _, state = weighed(rule, seen(values, step), state)
    for live, copied in kept:
        same(plain(copied), plain(live))


@every_ordered_rule
def test_the_order_of_the_losses_does_not_matter(rule, same):
    weights, _ = run(rule, BATCHES)
    for order in itertools.permutations(range(3)):
        batches = [[values[i] for i in order] for values in BATCHES]
        permuted, _ = run(rule, batches, [NAMES[i] for i in order])
        same(weights[:, list(order)], permuted)


@settings(max_examples=25, deadline=None)
@given(
    rule=st.sampled_from(list(RULES.values())),
    batches=st.lists(
        st.lists(st.one_of(st.none(), st.floats(0.01, 100)), min_size=4, max_size=4).filter(
            lambda values: any(v is not None for v in values)
        ),
        min_size=1,
        max_size=6,
    ),
    order=st.permutations(range(4)),
)
def test_any_order_of_any_losses(rule, batches, order, same):
    names = ("a", "b", "c", "d")
    weights, _ = run(rule, batches, names)
    permuted, _ = run(rule, [[values[i] for i in order] for values in batches], [names[i] for i in order])
    if not isinstance(rule, weighting.Random):
        same(weights[:, order], permuted)
    assert weights.isfinite().all()
    assert (weights >= 0).all()


@every_rule
def test_losses_that_differ_by_many_decades_get_finite_weights(rule):
    weights, _ = run(rule, [[1e-6, 1e6, 1.0], [1e6, 1e-6, 1.0], [1e-6, 1e6, 1.0], [1.0, 1.0, 1.0]], dtype=torch.float32)
    assert weights.isfinite().all()
    assert (weights >= 0).all()


@every_balancing_rule
def test_balanced_losses_weigh_one_each(rule):
    weights, _ = run(rule, [[0.5, 0.5, 0.5], [0.25, 0.25, 0.25], [0.5, 0.5, 0.5], [0.5, None, 0.5]])
    expected = torch.ones(4, 3, dtype=torch.float64)
    expected[3, 1] = 0
    torch.testing.assert_close(weights, expected)


@pytest.mark.parametrize("rule", [*BALANCING.values(), weighting.Random()], ids=[*BALANCING, "Random"])
def test_the_weights_of_a_balancing_rule_add_up_to_the_number_of_present_losses(rule):
    weights, _ = run(rule, BATCHES)
    torch.testing.assert_close(weights.sum(1), torch.tensor([3.0, 2.0, 3.0, 1.0, 2.0], dtype=torch.float64))


@every_rule
def test_the_state_is_plain_and_keyed_by_name(rule):
    _, state = run(rule, BATCHES)
    assert isinstance(state, dict)
    for key, value in state.items():
        assert isinstance(key, str)
        assert isinstance(value, dict | Tensor | int | float | str)
        if isinstance(value, dict):
            assert set(value) <= set(NAMES)
            assert all(type(v) in (Tensor, int, float, str) for v in value.values())
    for tensor in (v for value in state.values() if isinstance(value, dict) for v in value.values()):
        assert not isinstance(tensor, Tensor) or not tensor.requires_grad


@every_rule
def test_the_state_goes_through_a_file(rule, same):
    _, state = run(rule, BATCHES)
    file = io.BytesIO()
    torch.save(dict(state), file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    for values in BATCHES:
        same(weighed(rule, seen(values, 9), state)[0], weighed(rule, seen(values, 9), loaded)[0])


@every_rule
def test_the_state_of_half_a_step_goes_through_a_file(rule, same):
    _, state = rule.weigh(seen(BATCHES[0]), rule.init(()))
    file = io.BytesIO()
    torch.save(dict(state), file)
    file.seek(0)
    same(plain(state), plain(torch.load(file, weights_only=True)))


@every_rule
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_weights_are_a_vector_of_at_least_float32(rule, dtype):
    weights, _ = rule.weigh(seen([3.0, 0.5, 20.0], dtype=dtype), rule.init(()))
    assert weights.shape == (3,)
    assert weights.dtype in (torch.float32, torch.float64)
    assert weights.dtype == torch.float64 or dtype != torch.float64
    assert not weights.requires_grad


@every_rule
def test_weights_have_no_graph(rule):
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    assert not rule(x * 3).requires_grad


@every_rule
def test_called_directly_it_is_a_first_step(rule, same):
    losses = torch.tensor([3.0, 0.5])
    look = Seen(("loss0", "loss1"), losses, (True, True))
    same(rule.weigh(look, rule.init(look.names))[0], rule(losses))
    same(rule(losses), rule(losses))


@every_rule
def test_called_directly_with_an_absent_loss(rule):
    both, one = rule(torch.tensor([3.0, 0.5])), rule(torch.tensor([3.0, 0.5]), present=[True, False])
    assert one.shape == (2,)
    assert one[0] == rule(torch.tensor([3.0]))[0]
    if type(rule).__name__ in INDEPENDENT:
        assert one[0] == both[0]


@every_rule
def test_a_single_loss(rule):
    assert rule(torch.tensor([2.0])).shape == (1,)


@every_rule
def test_what_it_declares(rule, same):
    assert rule.needs <= {"losses", "after"}
    assert isinstance(rule.remembers, bool)
    if not rule.needs:
        unseen = Seen(NAMES, None, (True,) * 3, 4)
        same(rule.weigh(unseen, {})[0], rule.weigh(seen([1.0, 2.0, 3.0], 4), {})[0])
    if not rule.remembers and "draws" not in rule.init(()):
        used, _ = run(rule, BATCHES)
        same(rule.weigh(seen(BATCHES[2]), rule.init(()))[0], used[2])


@every_rule
def test_it_is_a_value(rule):
    assert rule == copy.deepcopy(rule) or "lambda" in repr(rule)
    assert repr(rule).startswith(type(rule).__name__ + "(")
    with pytest.raises((AttributeError, TypeError)):
        rule.floor = 3
    with pytest.raises((AttributeError, TypeError)):
        rule.anything = 3


@every_rule
def test_it_trains(rule):
    torch.manual_seed(0)
    x = torch.randn(16, 3)
    joint = cograd.Joint(
        models={"net": torch.nn.Linear(3, 2)},
        losses=lambda m, x: {
            "a": (m.net(x)[:, 0] - 1).square().mean() + 0.1,
            "b": m.net(x)[:, 1].square().mean() + 0.1,
            "loss1": None,  # named by one of the rules
        },
        optimizers=lambda ps: torch.optim.SGD(ps, 0.02),
        weighting=rule,
    )
    first = joint.step(x).losses
    for _ in range(20):
        last = joint.step(x).losses
    assert all(last[name] < first[name] for name in last)


@every_rule
def test_stateful_gives_the_same_weights(rule, same):
    balance, (weights, state) = Stateful(rule), run(rule, BATCHES)
    for step, values in enumerate(BATCHES):
        losses = {n: torch.tensor(v, dtype=torch.float64) for n, v in zip(NAMES, values, strict=True) if v is not None}
        got = balance.weigh(losses, step) if rule.needs else balance.before(losses, step)
        balance.commit()
        balance.after({name: loss * loss / (1 + loss) for name, loss in losses.items()})
        for name, w in got.items():
            assert float(w) == pytest.approx(weights[step][NAMES.index(name)].item(), rel=1e-12)
    assert balance.state_dict()["state"].keys() == state.keys()


@every_rule
def test_it_is_documented_with_an_example(rule):
    doc = inspect.getdoc(type(rule))
    assert doc is not None
    assert ">>>" in doc
    assert ":math:" in doc
    if inspect.signature(type(rule)).parameters:
        assert "Args:" in doc
    if run(rule, BATCHES)[1]:
        assert "State:" in doc


def plain(state):
    return dict(state)


PRESENT = [[True, False, True], (1, 0, 1), torch.tensor([True, False, True]), torch.tensor([1, 0, 1])]


@pytest.mark.parametrize("present", PRESENT, ids=["list", "ints", "tensor", "tensor of ints"])
@pytest.mark.parametrize("name", [name for name in weighting.__all__ if name in (*RULES, "UPGrad", "MGDA", "CAGrad")])
def test_what_is_present_may_be_said_in_any_way(name, present):
    rule = RULES.get(name) or getattr(weighting, name)()
    losses, gramian = torch.tensor([3.0, 0.0, 2.0]), torch.tensor([[4.0, 0, 1], [0, 0, 0], [1, 0, 2]])
    expected = rule(losses, gramian, (True, False, True))
    assert rule(losses, gramian, present).equal(expected)
    with pytest.raises(cograd.errors.WeightingError, match="each of the 3 losses as there or not; found 2 marks"):
        rule(losses, gramian, [True, False])
