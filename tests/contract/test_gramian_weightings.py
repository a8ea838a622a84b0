"""What every rule that looks at gradients promises."""

import copy
import inspect
import io
import itertools
import math

import pytest
import torch
from torch import Tensor

from cograd import weighting
from cograd.errors import WeightingError
from cograd.weighting import Seen, Weighting

RULES = {
    "AlignedMTL": weighting.AlignedMTL(),
    "CAGrad": weighting.CAGrad(c=0.4),
    "ConFIG": weighting.ConFIG(),
    "DualProj": weighting.DualProj({"a": 0.7}),
    "FairGrad": weighting.FairGrad(alpha=2.0),
    "GradNorm": weighting.GradNorm(),
    "GradVac": weighting.GradVac(beta=0.3, seed=1),
    "IMTLG": weighting.IMTLG(),
    "LRAnnealing": weighting.LRAnnealing("a"),
    "MGDA": weighting.MGDA(),
    "NashMTL": weighting.NashMTL(),
    "PCGrad": weighting.PCGrad(seed=1),
    "UPGrad": weighting.UPGrad({"a": 0.7}),
}
NAMES = ("a", "b", "c")
JACOBIANS = [
    [[3.0, -1, 2, 0], [-2, 1, 1, 1], [0, 2, -30, 10]],
    [[1.0, 0, 0, 1], None, [-1, 0, 2, 0]],
    [[1.0, 2, 0, 0], [-1, 3, 1, 1], [1, 1, 1, -2]],
    [None, None, [1.0, 2, 3, 4]],
    [[1.0, 1, 0, 0], [0, 0, 0, 0], None],
]
DRAWING = {"PCGrad", "GradVac"}

every_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
needs_gramian = pytest.mark.parametrize(
    "rule", [pytest.param(rule, id=name) for name, rule in RULES.items() if "gramian" in rule.needs]
)


def seen(rows, step=0, names=NAMES, dtype=torch.float64):
    width = max(len(row) for row in rows if row is not None)
    J = torch.tensor([[0.0] * width if row is None else row for row in rows], dtype=torch.float64)
    magnitudes = torch.stack([J.abs().amax(1), J.abs().mean(1)], 1)
    losses = torch.tensor([1.0 + len(name) * step + ord(name[0]) % 7 for name in names])
    present = tuple(row is not None for row in rows)
    return Seen(tuple(names), losses, present, step, gramian=(J @ J.T).to(dtype), abs=magnitudes.to(dtype))


def run(rule, batches=JACOBIANS, names=NAMES):
    state, history = rule.init(()), []
    for step, rows in enumerate(batches):
        weights, state = rule.weigh(seen(rows, step, names), state)
        history.append(weights)
    return torch.stack(history), state


def test_every_public_rule_is_tested_here():
    public = [getattr(weighting, name) for name in weighting.__all__]
    rules = {x for x in public if inspect.isclass(x) and issubclass(x, Weighting) and x is not Weighting}
    own = {rule for rule in rules if rule.needs & {"gramian", "abs"} and not rule.__name__.startswith("From")}
    assert {type(rule) for rule in RULES.values()} == own


@every_rule
def test_the_same_input_gives_the_same_output_and_nothing_is_changed(rule, same):
    state = rule.init(())
    for step, rows in enumerate(JACOBIANS):
        look, before = seen(rows, step), copy.deepcopy(state)
        gramian, magnitudes = look.gramian.clone(), look.abs.clone()
        weights, after = rule.weigh(look, state)
        again, after_again = rule.weigh(look, state)
        same(weights, again)
        same(dict(after), dict(after_again))
        same(dict(before), dict(state))
        same(gramian, look.gramian)
        same(magnitudes, look.abs)
        state = after


@every_rule
def test_a_later_state_does_not_change_an_earlier_one(rule, same):
    state, kept = rule.init(()), []
    for step, rows in enumerate(JACOBIANS):
        kept.append((state, copy.deepcopy(state)))
        _, state = rule.weigh(seen(rows, step), state)
    for live, copied in kept:
        same(dict(copied), dict(live))


@pytest.mark.parametrize("name", sorted(set(RULES) - DRAWING))
def test_the_order_of_the_losses_does_not_matter(name):
    rule = RULES[name]
    weights, _ = run(rule)
    for order in itertools.permutations(range(3)):
        permuted, _ = run(rule, [[rows[i] for i in order] for rows in JACOBIANS], [NAMES[i] for i in order])
        torch.testing.assert_close(permuted, weights[:, list(order)], rtol=1e-9, atol=1e-9)


@every_rule
def test_the_weights_are_a_vector_of_float64_on_the_cpu(rule):
    for weights in run(rule)[0]:
        assert weights.shape == (3,)
        assert weights.dtype == torch.float64
        assert weights.isfinite().all()
        assert not weights.requires_grad


@every_rule
def test_an_absent_loss_weighs_nothing_and_leaves_the_others_as_without_it(rule):
    if rule in (RULES["PCGrad"], RULES["GradVac"]):
        rows = [[1.0, 2, 0], [-3.0, 1, 1], None]  # two losses draw nothing
    else:
        rows = [[1.0, 2, 0], [-1, 3, 1], None]
    weights, _ = rule.weigh(seen(rows), rule.init(()))
    alone, _ = rule.weigh(seen(rows[:2], names=NAMES[:2]), rule.init(()))
    assert weights[2] == 0
    torch.testing.assert_close(weights[:2], alone, rtol=0, atol=0)


@needs_gramian
def test_a_loss_without_a_gradient_changes_nothing(rule):
    rows = [[1.0, 2, 0], [0.0, 0, 0], [-1, 3, 1]]
    weights, _ = rule.weigh(seen(rows), rule.init(()))
    alone, _ = rule.weigh(seen([rows[0], rows[2]], names=("a", "c")), rule.init(()))
    assert weights[1] == 1
    if "losses" not in rule.needs:
        torch.testing.assert_close(weights[[0, 2]], alone, rtol=0, atol=0)


@needs_gramian
def test_all_gradients_zero(rule):
    assert rule.weigh(seen([[0.0]] * 3), rule.init(()))[0].tolist() == [1.0] * 3


@needs_gramian
def test_balanced_losses_get_ones(rule):
    expected = 1 + rule.c if rule == RULES["CAGrad"] else 1.0
    names = ("x", "y", "z")
    J = torch.eye(3) * 5
    look = Seen(names, torch.ones(3), (True,) * 3, gramian=J @ J.T)
    torch.testing.assert_close(rule.weigh(look, rule.init(()))[0], torch.full((3,), expected, dtype=torch.float64))


@every_rule
def test_a_single_loss_has_weight_one(rule):
    look = Seen(("x",), torch.ones(1), (True,), gramian=torch.tensor([[9.0]]), abs=torch.tensor([[2.0, 1.0]]))
    assert rule.weigh(look, rule.init(()))[0].tolist() == pytest.approx([1.0], abs=1e-15)


@every_rule
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_any_floating_type(rule, dtype):
    rows = [[1.0, 2, 0], [-1, 3, 1], [0, 1, -2]]
    expected, _ = rule.weigh(seen(rows), rule.init(()))
    found, _ = rule.weigh(seen(rows, dtype=dtype), rule.init(()))
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2)


@needs_gramian
def test_a_gramian_that_rounding_made_indefinite(rule):
    gramian = torch.tensor([[1.0, 1.004, 0.2], [1.004, 1.0, 0.2], [0.2, 0.2, 1.0]], dtype=torch.float64)
    look = Seen(NAMES, torch.ones(3), (True,) * 3, gramian=gramian)
    weights, _ = rule.weigh(look, rule.init(()))
    assert weights.isfinite().all()
    assert weights.sum() > 0


@needs_gramian
def test_what_it_refuses(rule):
    ones, state = torch.ones(3), rule.init(())
    name = type(rule).__name__
    with pytest.raises(WeightingError, match=f"{name} needs the Gramian of the losses 'a', 'b', 'c'; found None"):
        rule.weigh(Seen(NAMES, ones, (True,) * 3), state)
    with pytest.raises(WeightingError, match=rf"{name}: the Gramian .* must be \[3, 3\]; found \[3, 2\]"):
        rule.weigh(Seen(NAMES, ones, (True,) * 3, gramian=torch.ones(3, 2)), state)
    for value in (math.nan, math.inf):
        gramian = torch.eye(3)
        gramian[1, :] = gramian[:, 1] = value
        with pytest.raises(WeightingError, match=f"{name}: the gradient of 'b' on the shared parameters is NaN"):
            rule.weigh(Seen(NAMES, ones, (True,) * 3, gramian=gramian), state)
        absent = Seen(NAMES, ones, (True, False, True), gramian=gramian)
        assert rule.weigh(absent, state)[0].isfinite().all()
    with pytest.raises(WeightingError, match=f"{name}: the diagonal .* found -1 for 'c'"):
        rule.weigh(Seen(NAMES, ones, (True,) * 3, gramian=torch.diag(torch.tensor([1.0, 2.0, -1.0]))), state)


@every_rule
def test_the_state_is_plain_and_goes_through_a_file(rule, same):
    _, state = run(rule)

    def check(value):
        if isinstance(value, dict):
            assert all(isinstance(key, str) for key in value)
            for inner in value.values():
                check(inner)
        else:
            assert type(value) in (Tensor, int, float, str)

    assert isinstance(state, dict)
    check(state)
    file = io.BytesIO()
    torch.save(dict(state), file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    for rows in JACOBIANS:
        same(rule.weigh(seen(rows, 9), state)[0], rule.weigh(seen(rows, 9), loaded)[0])


@every_rule
def test_what_it_declares(rule, same):
    assert rule.needs <= {"losses", "gramian", "abs"}
    assert rule.remembers == (type(rule).__name__ in ("GradNorm", "GradVac", "LRAnnealing"))
    if not rule.remembers and rule != RULES["PCGrad"]:
        used, _ = run(rule)
        same(rule.weigh(seen(JACOBIANS[2]), rule.init(()))[0], used[2])


@every_rule
def test_it_is_a_value(rule):
    assert rule == copy.deepcopy(rule)
    assert repr(rule).startswith(type(rule).__name__ + "(")
    with pytest.raises((AttributeError, TypeError)):
        rule.scale = 3
    with pytest.raises((AttributeError, TypeError)):
        rule.anything = 3


@every_rule
def test_it_is_documented_with_an_example(rule):
    doc = inspect.getdoc(type(rule))
    for part in (">>>", ":math:", "References:", "scal"):
        assert part in doc
    if inspect.signature(type(rule)).parameters:
        assert "Args:" in doc
    if run(rule)[1]:
        assert "State:" in doc
