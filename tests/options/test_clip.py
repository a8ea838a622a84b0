"""Clipping, bitwise as torch's own functions in a loop by hand."""

import copy
import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim import LBFGS, SGD, Adam

from cograd import Clip, Joint, alternate
from cograd.errors import CogradError, NonFiniteLossError, OptimizerError

X = torch.linspace(-1, 1, 32).reshape(8, 4)


def nets():
    torch.manual_seed(1)
    return {"a": nn.Linear(4, 4), "b": nn.Linear(4, 1)}


def losses(m, x):
    return {"fit": 50 * (m.b(m.a(x).tanh()) - 3).square().mean()}


MOMENTUM = partial(SGD, lr=0.1, momentum=0.9)


def joint_of(models, optimizers=MOMENTUM, **options):
    return Joint(models=models, losses=losses, optimizers=optimizers, **options)


def by_hand(models, clip, steps=4):
    optimizer = SGD([p for model in models.values() for p in model.parameters()], lr=0.1, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        losses(type("M", (), models), X)["fit"].backward()
        clip(models)
        optimizer.step()


def each(function):
    return lambda models: [function(model.parameters()) for model in models.values()]


def together(function):
    return lambda models: function([p for model in models.values() for p in model.parameters()])


CASES = {
    "a number for all": (0.7, each(lambda ps: clip_grad_norm_(ps, 0.7))),
    "each its own": (
        {"a": 0.3, "b": Clip(value=0.01)},
        lambda m: (clip_grad_norm_(m["a"].parameters(), 0.3), clip_grad_value_(m["b"].parameters(), 0.01)),
    ),
    "only one": ({"b": 0.2}, lambda m: clip_grad_norm_(m["b"].parameters(), 0.2)),
    "together": ({("a", "b"): 0.5}, together(lambda ps: clip_grad_norm_(ps, 0.5))),
    "another norm": (Clip(norm=0.1, kind=math.inf), each(lambda ps: clip_grad_norm_(ps, 0.1, math.inf))),
    "by value": (Clip(value=0.02), each(lambda ps: clip_grad_value_(ps, 0.02))),
    "a bound that is never met": (1e9, lambda m: None),
}


@pytest.mark.parametrize("grad_norms", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_as_by_hand(case, grad_norms):
    clip, hand = CASES[case]
    mine, theirs = nets(), nets()
    joint = joint_of(mine, clip=clip, grad_norms=grad_norms)
    for _ in range(4):
        joint.step(X)
    by_hand(theirs, hand)
    for name, model in mine.items():
        for p, q in zip(model.parameters(), theirs[name].parameters(), strict=True):
            assert torch.equal(p, q), name


def test_norms_are_those_before_clipping():
    joint = joint_of(nets(), clip=0.01, grad_norms=True)
    report = joint.step(X)
    assert all(norm > 0.01 for norm in report.grad_norms.values())
    assert list(report.grad_norms) == ["a", "b"]


def test_norms_are_reported_only_when_asked_for():
    assert joint_of(nets(), clip=0.01).step(X).grad_norms == {}


def test_in_turns_each_update_is_clipped():
    """Others refuse a second clip, or let it unscale what was unscaled before."""
    models = nets()
    joint = joint_of(models, partial(SGD, lr=1.0), phases=alternate("a", "b"), clip=0.05)
    before = copy.deepcopy(models)
    joint.step(X)
    for name, model in models.items():
        moved = torch.cat(
            [(p - q).flatten() for p, q in zip(model.parameters(), before[name].parameters(), strict=True)]
        )
        torch.testing.assert_close(moved.norm(), torch.tensor(0.05))


def test_what_is_bounded_together_but_updated_apart():
    models = nets()
    joint = joint_of(models, partial(SGD, lr=1.0), phases=alternate("a", "b"), clip={("a", "b"): 0.05})
    before = copy.deepcopy(models)
    joint.step(X)
    moved = torch.cat(
        [(p - q).flatten() for p, q in zip(models["b"].parameters(), before["b"].parameters(), strict=True)]
    )
    torch.testing.assert_close(moved.norm(), torch.tensor(0.05))


def test_the_mean_of_an_accumulation_is_clipped_once():
    one, several = nets(), nets()
    joint_of(one, clip=0.1).step(X)
    joint = joint_of(several, clip=0.1, accumulate=2)
    joint.step(X)
    joint.step(X)
    for name, model in one.items():
        for p, q in zip(model.parameters(), several[name].parameters(), strict=True):
            assert torch.equal(p, q)


@pytest.mark.parametrize("clip", [0.1, Clip(value=0.001)])
def test_sparse(clip):
    torch.manual_seed(0)
    table = nn.Embedding(10, 3, sparse=True)
    dense = copy.deepcopy(table)
    dense.sparse = False
    for module in (table, dense):
        Joint(
            models={"table": module},
            losses=lambda m, i: {"size": m.table(i).square().sum()},
            optimizers=partial(SGD, lr=0.1),
            clip=clip,
        ).step(torch.tensor([1, 2, 2]))
    torch.testing.assert_close(table.weight, dense.weight)


def test_a_norm_that_is_not_finite_moves_nothing(picture, same):
    joint = Joint(
        models={"net": nn.Linear(4, 1, bias=False)},
        losses=lambda m, x: {"root": m.net(x).mean().abs().sqrt()},
        optimizers=partial(Adam, lr=0.1),
        clip=1.0,
    )
    before = picture(joint)
    with pytest.raises(NonFiniteLossError, match=r"the gradient of net\.weight is NaN"):
        joint.step(torch.zeros(3, 4))
    same(before, picture(joint))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Clip(), "either norm or value"),
        (lambda: Clip(norm=1.0, value=1.0), "either norm or value"),
        (lambda: Clip(norm=-1.0), "positive number; found -1.0"),
        (lambda: Clip(value=float("nan")), "positive number; found nan"),
        (lambda: joint_of(nets(), clip={"c": 1.0}), "names no model"),
        (lambda: joint_of(nets(), clip=0), r"^clip must be a positive number or cograd.Clip\(...\), .*; found 0\.$"),
        (lambda: joint_of(nets(), clip="1"), "positive number or cograd.Clip"),
        (lambda: joint_of(nets(), clip=True), "positive number or cograd.Clip"),
        (lambda: joint_of(nets(), clip={"a": 1.0, ("a", "b"): 1.0}), "'a' more than once"),
        (lambda: joint_of(nets(), clip={3: 1.0}), "clip"),
        (lambda: joint_of(m := nets(), LBFGS([*m["a"].parameters(), *m["b"].parameters()]), clip=1.0), "clip for"),
    ],
)
def test_refused(make, message):
    with pytest.raises(OptimizerError, match=message) as caught:
        make()
    assert isinstance(caught.value, CogradError)
