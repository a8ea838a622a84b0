import math

import pytest
import torch

import cograd
from cograd.weighting import GeometricMean


def test_known_answer():
    """Value and gradient of TorchJD 0.18's GeometricMean."""
    weights = GeometricMean()(torch.tensor([2.0, 0.5, 4.0], dtype=torch.float64))
    expected = torch.tensor([0.264566842, 1.058267368, 0.132283421], dtype=torch.float64)
    torch.testing.assert_close(weights, expected, rtol=0, atol=1e-9)


def test_it_is_the_gradient_of_the_root_of_the_product():
    x = torch.tensor([3.0, 5.0], dtype=torch.float64, requires_grad=True)
    losses = {"a": (x**2).sum(), "b": x.prod(), "c": x[0]}
    (expected,) = torch.autograd.grad((losses["a"] * losses["b"] * losses["c"]) ** (1 / 3), x, retain_graph=True)
    got = cograd.grad(losses, models={"x": [x]}, weighting=GeometricMean())["x"]["0"]
    torch.testing.assert_close(got, expected)


def test_absent_losses_are_no_part_of_the_mean(weights_over):
    history, state = weights_over(GeometricMean(), [{"a": 8.0, "b": None, "c": 2.0}])
    assert history[0] == pytest.approx({"a": 0.25, "c": 1.0})
    assert state == {}


def test_one_loss_alone_weighs_one():
    assert GeometricMean()(torch.tensor([7.0])).item() == pytest.approx(1)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan])
def test_what_has_no_logarithm_leaves_no_mean(value):
    assert GeometricMean()(torch.tensor([value, 1.0])).isnan().all()


def test_the_product_may_overflow_and_the_mean_does_not():
    weights = GeometricMean()(torch.tensor([1e30, 1e20, 1e10]))
    torch.testing.assert_close(weights, torch.tensor([1e-10, 1.0, 1e10]) / 3, rtol=1e-4, atol=0)
