import pytest
import torch

import cograd
from cograd.errors import WeightingError
from cograd.weighting import Scheduled


def test_the_weights_follow_the_batches_seen_before(weights_over):
    rule = Scheduled({"a": lambda step: step / 4, "b": 3})
    batches = [{"a": 1.0, "b": 1.0, "c": 1.0}] * 3
    assert weights_over(rule, batches)[0] == [{"a": t / 4, "b": 3.0, "c": 1.0} for t in range(3)]


def test_it_is_asked_with_whole_numbers():
    asked = []
    rule = Scheduled({"loss0": lambda step: asked.append(step) or 1.0})
    rule(torch.ones(1))
    assert asked == [0]
    assert type(asked[0]) is int


def test_it_needs_no_losses_but_must_know_the_step():
    assert Scheduled.needs == frozenset()
    assert Scheduled.remembers


def test_half_precision_does_not_round_the_weight():
    assert Scheduled({"loss0": 0.7})(torch.ones(1, dtype=torch.bfloat16)).item() == 0.7


def test_the_step_goes_on_after_a_resume(resumed):
    rule = Scheduled({"a": lambda step: 1 + step})
    model = torch.nn.Linear(2, 1)

    def build():
        return cograd.Joint(
            models={"m": model}, losses=lambda m, x: {"a": m.m(x).sum()}, optimizers=torch.optim.SGD, weighting=rule
        )

    first, second = build(), build()
    x = torch.ones(1, 2)
    assert [first.step(x).weights["a"] for _ in range(2)] == [1.0, 2.0]
    second.load_state_dict(first.state_dict())
    assert [second.step(x).weights["a"] for _ in range(2)] == [3.0, 4.0]


def test_in_a_loop_of_ones_own_it_counts_the_calls():
    balance = cograd.weighting.Stateful(Scheduled({"a": lambda step: 1 + step}))
    x = torch.tensor(2.0, requires_grad=True)
    assert [cograd.backward({"a": x**2}, weighting=balance).weights["a"] for _ in range(3)] == [1.0, 2.0, 3.0]
    assert x.grad.item() == 4 * (1 + 2 + 3)


@pytest.mark.parametrize("value", [None, "half", [1.0]])
def test_a_schedule_that_gives_no_number_is_refused(value):
    with pytest.raises(WeightingError, match=r"Scheduled: the weight of 'loss0' must be a .*number.*; found"):
        Scheduled({"loss0": lambda step: value})(torch.ones(1))


def test_a_schedule_may_give_a_scalar_tensor():
    assert Scheduled({"loss0": lambda step: torch.tensor(0.5)})(torch.ones(1)).item() == 0.5
