import pytest
import torch

from cograd.weighting import FirstValue, Stateful


def test_each_loss_is_divided_by_its_own_first_value_for_ever(weights_over):
    history, state = weights_over(FirstValue(), [{"a": 200.0, "b": 0.5}, {"a": 3.0, "b": 7.0}, {"a": 1.0, "b": 1.0}])
    assert history == [{"a": 1 / 200, "b": 2.0}] * 3
    assert {name: value.item() for name, value in state["first"].items()} == {"a": 200.0, "b": 0.5}


def test_a_loss_that_comes_later_starts_later(weights_over):
    batches = [{"a": 4.0}, {"a": 1.0, "b": 8.0}, {"a": None, "b": 2.0}, {"a": 9.0, "b": None, "c": 0.25}]
    assert weights_over(FirstValue(), batches)[0] == [
        {"a": 1 / 4},
        {"a": 1 / 4, "b": 1 / 8},
        {"b": 1 / 8},
        {"a": 1 / 4, "c": 4.0},
    ]


def test_a_negative_first_value_keeps_the_direction(weights_over):
    assert weights_over(FirstValue(), [{"a": -4.0}, {"a": 2.0}])[0] == [{"a": 1 / 4}] * 2


def test_a_first_value_below_the_floor_is_no_scale(weights_over):
    history, _ = weights_over(FirstValue(floor=0.1), [{"a": 0.0}, {"a": 0.05}, {"a": 0.5}, {"a": 0.01}])
    assert history == [{"a": 1.0}, {"a": 1.0}, {"a": 2.0}, {"a": 2.0}]


def test_half_precision_is_kept_in_float32():
    balance = Stateful(FirstValue())
    weights = balance.weigh({"a": torch.tensor(3.0, dtype=torch.bfloat16)}, 0)
    assert weights["a"].dtype == torch.float32
    assert weights["a"].item() == pytest.approx(1 / 3, rel=1e-6)
    balance.commit()
    assert balance.state_dict()["state"]["first"]["a"].dtype == torch.float32


@pytest.mark.parametrize("cut", [1, 2])
def test_it_resumes(cut, resumed):
    batches = [{"a": 2.0, "b": None}, {"a": 3.0, "b": 5.0}, {"a": 7.0, "b": 1.0}]
    assert resumed(FirstValue(), batches, cut, Stateful) == resumed(FirstValue(), batches, None, Stateful)
