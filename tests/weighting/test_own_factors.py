"""Factors of one's own that follow the step, alone and beside every kind of rule."""

import math
from functools import partial

import pytest
import torch
from torch import nn

import cograd
from cograd import weighting
from cograd.errors import CogradError, WeightingError
from cograd.weighting import Stateful

X = torch.linspace(-1, 1, 24, dtype=torch.float64).reshape(8, 3)
RULES = {
    "none": lambda: None,
    "Fixed": lambda: weighting.Fixed({"rec": 2.0}),
    "Scheduled": lambda: weighting.Scheduled({"rec": lambda step: 1.0 + step}),
    "FirstValue": weighting.FirstValue,
    "FAMO": weighting.FAMO,
    "UPGrad": weighting.UPGrad,
    "MGDA": weighting.MGDA,
    "LRAnnealing": lambda: weighting.LRAnnealing("rec"),
    "function": lambda: lambda gramian: 1 / gramian.diagonal().sqrt(),
    "FromJacobian": lambda: weighting.FromJacobian(lambda jacobian: jacobian.sum(0)),
}
every_rule = pytest.mark.parametrize("make", RULES.values(), ids=RULES)


def warm(step):
    return min(1.0, step / 4)


def networks():
    torch.manual_seed(0)
    return {"enc": nn.Linear(3, 4).double(), "dec": nn.Linear(4, 3).double(), "head": nn.Linear(4, 1).double()}


def losses(m, x):
    z = m["enc"](x).tanh()
    return {
        "rec": (m["dec"](z) - x).square().mean(),
        "kl": (m["head"](z) - 1).square().mean(),
        "size": z.square().mean(),
    }


def joint(weights, rule, models=None, losses=losses, optimizer=torch.optim.SGD, **options):
    return cograd.Joint(
        models=models or networks(),
        losses=losses,
        optimizers=partial(optimizer, lr=0.05),
        weights=weights,
        weighting=rule,
        **options,
    )


def parameters(j):
    return [p.detach().clone() for name in j.models for p in j.models[name].parameters()]


@every_rule
@pytest.mark.parametrize("refresh", [1, 2])
def test_it_is_the_number_that_the_function_gives_at_that_step(make, refresh):
    """One step at a time, from one state: with the function, and with the number that it gives."""
    rule = make()
    shares = rule is not None and Stateful(rule).shares
    if refresh > 1 and (not shares or "jacobian" in Stateful(rule).rule.needs):
        pytest.skip("there is nothing to refresh")
    options = {"refresh": refresh} if refresh > 1 else {}
    followed = joint({"kl": warm, "rec": lambda step: 1.5}, make(), **options)
    for step in range(6):
        fixed = joint({"kl": warm(step), "rec": 1.5}, make(), **options)
        fixed.load_state_dict(followed.state_dict())
        by_function, by_number = followed.step(X), fixed.step(X)
        assert by_function.weights == by_number.weights
        assert ("kl" in by_function.losses) == (step > 0)
        for p, q in zip(parameters(followed), parameters(fixed), strict=True):
            assert p.equal(q)


def test_it_scales_a_loss_before_a_rule_over_gradients_sees_it():
    seen = []
    j = joint({"kl": lambda step: 2.0 + step}, lambda gramian: seen.append(gramian) or torch.ones(3).double())
    plain = joint(None, lambda gramian: seen.append(gramian) or torch.ones(3).double())
    plain.load_state_dict(j.state_dict())
    plain.step(X)
    j.step(X)
    torch.testing.assert_close(seen[1][1], seen[0][1] * torch.tensor([2.0, 4.0, 2.0]).double())


def test_it_multiplies_what_a_rule_over_losses_gives():
    j = joint({"kl": lambda step: 3.0 + step}, weighting.FirstValue())
    first = j.step(X)
    assert float(first.weights["kl"]) == pytest.approx(3 / float(first.losses["kl"]))


def test_a_loss_of_weight_zero_is_not_evaluated():
    called = []

    def lazy(m, x):
        found = losses(m, x)
        return found | {"kl": lambda: called.append(1) or found["kl"]}

    j = joint({"kl": lambda step: float(step >= 2)}, weighting.UPGrad(), losses=lazy)
    counts = []
    for _ in range(4):
        j.step(X)
        counts.append(len(called))
    assert counts == [0, 0, 1, 2]


@every_rule
def test_a_resumed_run_goes_on_with_the_step(make, tmp_path):
    weights = {"kl": warm, "size": lambda step: 0.3**step}
    whole, first, second = (joint(weights, make()) for _ in range(3))
    for _ in range(5):
        whole.step(X)
    for _ in range(2):
        first.step(X)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for _ in range(3):
        second.step(X)
    for p, q in zip(parameters(whole), parameters(second), strict=True):
        assert p.equal(q)


def test_all_phases_and_repeats_of_a_batch_have_one_step():
    asked = []
    phases = cograd.alternate("enc", ("dec", "head"), repeat={"enc": 2})
    j = joint({"kl": lambda step: asked.append(step) or 1.0}, None, phases=phases)
    j.step(X)
    j.step(X)
    assert set(asked[: len(asked) // 2]) == {0}
    assert set(asked[len(asked) // 2 :]) == {1}
    assert type(asked[0]) is int


def test_a_search_has_the_weights_of_its_first_evaluation():
    twin = networks()
    both = [p for model in twin.values() for p in model.parameters()]
    optimizer = torch.optim.LBFGS(both, lr=0.05)
    models = nn.ModuleDict(networks())
    j = cograd.Joint(
        models={"all": models},
        losses=lambda m, x: losses(m.all, x),
        optimizers=partial(torch.optim.LBFGS, lr=0.05),
        weights={"kl": lambda step: 0.5 + step},
    )
    for step in range(2):
        j.step(X)

        def closure(step=step):
            optimizer.zero_grad()
            found = losses(twin, X)
            total = found["rec"] + (0.5 + step) * found["kl"] + found["size"]
            total.backward()
            return total

        optimizer.step(closure)
    for p, q in zip(models.parameters(), both, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)


def test_it_is_shown():
    j = joint({"kl": warm, "rec": 0.5}, weighting.UPGrad())
    assert "\n  weights: kl by step; rec 0.5\n  weighting: UPGrad(" in repr(j)
    assert "weights:" not in repr(joint(None, None))
    assert "loss kl has weight 0 and is left out" in str(cograd.explain(j, X))
    j.step(X)
    assert "weight 0" not in str(cograd.explain(j, X))


def test_fit_logs_and_resumes_it(tmp_path):
    def run(steps):
        torch.manual_seed(0)
        j = joint({"kl": warm}, weighting.UPGrad())
        cograd.fit(j, [X] * 3, epochs=3, steps=steps, run_dir=tmp_path / "run", progress=False)
        return j

    run(4)
    resumed = run(9)
    plain = joint({"kl": warm}, weighting.UPGrad())
    for _ in range(9):
        plain.step(X)
    for p, q in zip(parameters(resumed), parameters(plain), strict=True):
        assert p.equal(q)


# -- in a loop of one's own ------------------------------------------------------------------------------------------


def test_a_stateful_rule_says_which_step_it_is():
    balance, found = Stateful(weighting.FirstValue()), []
    for _ in range(3):
        m = networks()
        report = cograd.backward(losses(m, X), weights={"kl": lambda step: 1.0 + step}, weighting=balance)
        found.append(float(report.weights["kl"] * report.losses["kl"]))
    assert found == pytest.approx([1.0, 2.0, 3.0])
    cograd.grad(losses(m, X), models=m, weights={"kl": lambda step: found.append(step) or 1.0}, weighting=balance)
    assert 3 in found


@pytest.mark.parametrize("rule", [None, weighting.UPGrad(), weighting.Fixed(), lambda gramian: gramian.diagonal()])
def test_without_one_a_function_is_refused(rule):
    m = networks()
    with pytest.raises(WeightingError, match=r"weights\['kl'\] is a function of the step, and cograd.backward counts"):
        cograd.backward(losses(m, X), weights={"kl": warm}, weighting=rule)
    assert all(p.grad is None for model in m.values() for p in model.parameters())


# -- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("factor", "words"),
    [
        (lambda: 1.0, r"weights\['kl'\] must be a function f\(step\); found <lambda>\(\)"),
        (lambda step, epoch: 1.0, r"weights\['kl'\] must be a function f\(step\); found <lambda>\(step, epoch\)"),
        (None, r"weights\['kl'\] must be a finite number, or a function of the step .*found None"),
        ("0.5", r"found '0.5'"),
        (math.nan, "found nan"),
        (math.inf, "found inf"),
        (torch.tensor(0.5), "found a float32 tensor"),
        ([0.5], r"found \[0.5\]"),
        (weighting.UPGrad(), r"found UPGrad\(.* Give it as weighting="),
        (weighting.UPGrad, "found the class UPGrad. Give it as weighting="),
    ],
)
def test_a_factor_that_is_none_is_refused_at_the_door(factor, words):
    with pytest.raises(WeightingError, match=words):
        joint({"kl": factor}, None)
    with pytest.raises(WeightingError, match=words):
        cograd.backward(losses(networks(), X), weights={"kl": factor}, weighting=Stateful(weighting.Fixed()))


@pytest.mark.parametrize("value", [None, "0.5", math.nan, -math.inf, [1.0], torch.ones(2), torch.tensor(math.nan)])
@pytest.mark.parametrize("rule", [None, weighting.FirstValue(), weighting.UPGrad()])
def test_a_function_that_gives_no_number_is_named_with_the_step(value, rule):
    j = joint({"kl": lambda step: value if step == 1 else 1.0}, rule)
    j.step(X)
    before, state = parameters(j), j.steps
    with pytest.raises(
        WeightingError, match=r"weights\['kl'\] must be a finite number at each step; found .* at step 1"
    ):
        j.step(X)
    assert j.steps == state
    for p, q in zip(parameters(j), before, strict=True):
        assert p.equal(q)


def test_an_error_inside_the_function_says_where_it_was():
    j = joint({"kl": lambda step: 1 / step}, None)
    with pytest.raises(ZeroDivisionError) as caught:
        j.step(X)
    assert caught.value.__notes__[0] == "That is from weights['kl'], which was called with step 0."


def test_a_misspelt_loss_is_named():
    j = joint({"lk": warm}, None)
    with pytest.raises(CogradError, match=r"weights\['lk'\] names loss 'lk'.*Known losses: 'rec', 'kl', 'size'"):
        j.step(X)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: joint(weighting.UPGrad(), None), r"weights maps losses .*found UPGrad\(.* Give it as weighting="),
        (lambda: joint([1.0, 2.0], None), "weights maps losses to numbers or functions"),
        (lambda: joint(cograd.gramian.Rows(), None), "Give it as gramian="),
        (lambda: joint(None, cograd.gramian.Rows()), "weighting takes a rule.*found Rows.* Give it as gramian="),
        (lambda: joint(None, cograd.gramian.Rows), "found the class Rows. Give it as gramian="),
        (lambda: joint(None, {"kl": 0.5}), "weighting takes a rule.* Give it as weights="),
        (lambda: joint(None, None, gramian=weighting.UPGrad()), "gramian takes .* Give it as weighting="),
        (lambda: joint(None, None, gramian=weighting.UPGrad), "found the class UPGrad. Give it as weighting="),
        (lambda: joint(None, weighting.UPGrad), r"the class UPGrad. Make a rule of it: cograd.weighting.UPGrad\(\)"),
        (lambda: joint(None, "UPGrad"), r"found 'UPGrad'. Make a rule of it: cograd.weighting.UPGrad\(\)"),
        (lambda: joint(None, "upgrad"), r"Make a rule of it: cograd.weighting.UPGrad\(\)"),
        (lambda: joint(None, "best"), r"found 'best'"),
        (lambda: joint(None, 3), "found 3"),
        (lambda: joint(None, Stateful(weighting.UPGrad())), "pass the bare rule"),
        (lambda: cograd.backward(losses(networks(), X), weighting=weighting.UPGrad), r"UPGrad\(\)"),
        (lambda: cograd.backward(losses(networks(), X), weighting=cograd.gramian.Rows()), "Give it as gramian="),
        (lambda: cograd.backward(losses(networks(), X), weights=weighting.UPGrad()), "Give it as weighting="),
        (
            lambda: (
                cograd.Phase("enc", weighting=weighting.UPGrad)
                and joint(None, None, phases=[cograd.Phase(("enc", "dec", "head"), weighting=weighting.UPGrad)])
            ),
            r"UPGrad\(\)",
        ),
    ],
)
def test_what_is_given_in_the_wrong_place_is_told_the_right_one(call, words):
    with pytest.raises(WeightingError, match=words):
        call()
