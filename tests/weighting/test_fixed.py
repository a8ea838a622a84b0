import pytest
import torch

from cograd.weighting import Fixed


def test_the_weights_are_those_given_and_one_otherwise(weights_over):
    rule = Fixed({"a": 0.7, "c": -2})
    history, state = weights_over(rule, [{"a": 5.0, "b": 1.0, "c": 3.0}, {"a": 0.0, "b": -1.0, "c": 1e9}])
    assert history == [{"a": 0.7, "b": 1.0, "c": -2.0}] * 2
    assert state == {}


def test_it_looks_at_nothing_and_remembers_nothing():
    assert Fixed.needs == frozenset()
    assert not Fixed.remembers
    assert Fixed() == Fixed({})


def test_a_half_precision_loss_gets_the_exact_factor():
    weights = Fixed({"loss0": 0.7})(torch.tensor([3.0, 5.0], dtype=torch.bfloat16))
    assert weights.tolist() == [0.7, 1.0]


def test_absent_losses_have_their_weight_unused(weights_over):
    assert weights_over(Fixed({"a": 3.0}), [{"a": None, "b": 2.0}])[0] == [{"b": 1.0}]


@pytest.mark.parametrize("weight", [0, 1, -1.5, 1e30])
def test_any_finite_number_will_do(weight):
    assert Fixed({"loss0": weight})(torch.ones(1)).item() == weight
