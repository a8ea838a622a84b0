"""A function that cannot be called as it will be is refused in words; one that can, or that nobody can know, passes."""

from functools import partial

import pytest
import torch
from torch import nn

import cograd
from cograd._arity import misfit
from cograd.errors import CogradError, LossError


def pair(models, batch):
    return {}


class Callable:
    def __call__(self, models, batch):
        return {}

    def method(self, models, batch):
        return {}


class Opaque:
    __signature__ = "unknown"

    def __call__(self, *args):
        return {}


@pytest.mark.parametrize(
    "function",
    [
        pair,
        Callable(),
        Callable().method,
        lambda *both: {},
        lambda models, *rest, **named: {},
        lambda models, batch, scale=1.0, *, noise=0.0: {},
        partial(lambda scale, models, batch: {}, 2.0),
        partial(lambda models, batch, *, scale: {}, scale=2.0),
        nn.Bilinear(1, 1, 1),
        max,  # has no signature
        Opaque(),
    ],
)
def test_what_can_be_called_passes(function):
    assert misfit("losses", function, "models", "batch") == ""


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda: None, "found <lambda>(). Let it take 2 arguments: models, batch."),
        (lambda batch, **named: {}, "found <lambda>(batch, **named). Let it take 2 arguments: models, batch."),
        (Callable.method, "found method(self, models, batch). Let it take 2 arguments: models, batch."),
        (
            lambda models, batch, *, noise: {},
            "found <lambda>(models, batch, *, noise). Let it take 2 arguments: models, batch.",
        ),
        (
            nn.Conv2d,
            "found Conv2d(in_channels, out_channels, kernel_size, stride=..., padding=..., dilation=..., "
            "groups=..., bias=..., padding_mode=..., device=..., dtype=...). Bind the rest: "
            "functools.partial(Conv2d, kernel_size=...).",
        ),
        (partial(pair, None), "found pair(batch). Let it take 2 arguments: models, batch."),
        (nn.Linear(1, 1), "found Linear(input). Let it take 2 arguments: models, batch."),
        (3, "found 3."),
        (nn.ModuleList, "found ModuleList(modules=...). Let it take 2 arguments: models, batch."),
    ],
)
def test_what_cannot_is_told_what_it_must_take(function, words):
    assert misfit("losses", function, "models", "batch") == f"losses must be a function losses(models, batch); {words}"


def test_the_losses_function_of_a_joint():
    with pytest.raises(LossError, match=r"losses must be a function losses\(models, batch\); found <lambda>\(batch\)"):
        cograd.Joint(models={"net": nn.Linear(1, 1)}, losses=lambda batch: {}, optimizers=torch.optim.SGD)


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (lambda m: m.net.weight.sum(), r"loss 'size' must be a function f\(\); found <lambda>\(m\)\. Let it take no"),
        (nn.MSELoss(), r"loss 'size' must be a function f\(\); found MSELoss\(input, target\)\. Let it take no"),
    ],
)
def test_a_loss_that_is_a_function_takes_nothing(loss, words):
    net = nn.Linear(1, 1)
    joint = cograd.Joint(models={"net": net}, losses=lambda m, x: {"size": loss}, optimizers=torch.optim.SGD)
    before = net.weight.clone()
    with pytest.raises(CogradError, match=words):
        joint.step(torch.ones(1, 1))
    assert torch.equal(net.weight, before)
    assert joint.steps == 0


def test_a_type_error_inside_a_loss_stays_what_it_is():
    joint = cograd.Joint(
        models={"net": nn.Linear(1, 1)},
        losses=lambda m, x: {"size": lambda: m.net(x) + "1"},
        optimizers=torch.optim.SGD,
    )
    with pytest.raises(TypeError, match="unsupported operand"):
        joint.step(torch.ones(1, 1))
