import math

import pytest
import torch

import cograd
from cograd.weighting import Log


def test_each_weight_is_the_reciprocal(weights_over):
    batches = [{"a": 200.0, "b": 0.5}, {"a": 8.0, "b": None}]
    assert weights_over(Log(), batches)[0] == [{"a": 1 / 200, "b": 2.0}, {"a": 1 / 8}]


def test_it_is_the_gradient_of_the_sum_of_logarithms():
    x = torch.tensor([3.0, 5.0], dtype=torch.float64, requires_grad=True)
    a, b = (x**2).sum(), x.prod()
    (expected,) = torch.autograd.grad(a.log() + b.log(), x, retain_graph=True)
    got = cograd.grad({"a": a, "b": b}, models={"x": [x]}, weighting=Log())["x"]["0"]
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan])
def test_what_has_no_logarithm_has_no_weight(value):
    assert Log()(torch.tensor([value, 1.0])).isnan().tolist() == [True, False]


def test_half_precision_is_weighted_in_float32():
    weights = Log()(torch.tensor([3.0], dtype=torch.bfloat16))
    assert weights.dtype == torch.float32
    assert weights.item() == pytest.approx(1 / 3, rel=1e-6)


def test_absent_losses_weigh_nothing():
    assert Log()(torch.tensor([2.0, 0.0]), present=[True, False]).tolist() == [0.5, 0.0]


def test_it_remembers_nothing(weights_over):
    assert weights_over(Log(), [{"a": 2.0}, {"a": 4.0}])[1] == {}
    assert not Log.remembers
