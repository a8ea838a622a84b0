import math

import pytest
import torch

from cograd.weighting import RunningStd, Stateful

A = [3.0, -1.0, 4.0, 1.0, 5.0]


def average(values, beta):
    """Exponentially weighted, the newest weighing most, the shares summing to one."""
    shares = [beta ** (len(values) - 1 - i) for i in range(len(values))]
    return sum(s * v for s, v in zip(shares, values, strict=True)) / sum(shares)


def by_hand(values, beta, floor=0.0):
    yield 1 / abs(values[0])
    squares = []
    for n in range(1, len(values)):
        centre = average(values[:n], beta)
        squares.append((values[n] - centre) ** 2)
        yield 1 / max(math.sqrt(average(squares, beta)), floor * abs(centre))


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9])
def test_each_loss_is_divided_by_its_deviation_from_the_mean_before(beta, weights_over):
    history, state = weights_over(RunningStd(beta=beta), [{"a": v} for v in A])
    assert [h["a"] for h in history] == pytest.approx(list(by_hand(A, beta, 1e-3)), rel=1e-12)
    assert state["count"] == {"a": 5}


def test_an_absent_loss_keeps_its_moments(weights_over):
    batches = [{"a": 3.0}, {"a": None, "b": 2.0}, {"a": -1.0, "b": 7.0}, {"b": 5.0}, {"a": 4.0}]
    history, state = weights_over(RunningStd(beta=0.5), batches)
    assert [h["a"] for h in history if "a" in h] == pytest.approx(list(by_hand(A[:3], 0.5)))
    assert [h["b"] for h in history if "b" in h] == pytest.approx(list(by_hand([2.0, 7.0, 5.0], 0.5)))
    assert state["count"] == {"a": 3, "b": 3}


def test_the_floor_is_a_share_of_the_mean(weights_over):
    history, _ = weights_over(RunningStd(floor=0.1), [{"a": 50.0}] * 4)
    assert [h["a"] for h in history] == pytest.approx([1 / 50, 1 / 5, 1 / 5, 1 / 5])


def test_a_loss_that_stays_zero_has_a_finite_weight(weights_over):
    history, _ = weights_over(RunningStd(), [{"a": 0.0}] * 3)
    assert all(math.isfinite(h["a"]) and h["a"] > 0 for h in history)


def test_half_precision_is_kept_in_float32():
    balance = Stateful(RunningStd(beta=0.9))
    for step, value in enumerate([3.0, 1.0, 4.0]):
        weight = balance.weigh({"a": torch.tensor(value, dtype=torch.bfloat16)}, step)["a"]
        balance.commit()
    assert weight.dtype == torch.float32
    assert weight.item() == pytest.approx(list(by_hand([3.0, 1.0, 4.0], 0.9))[-1], rel=1e-5)


@pytest.mark.parametrize("cut", [1, 2])
def test_it_resumes(cut, resumed):
    batches = [{"a": 2.0, "b": None}, {"a": 3.0, "b": 5.0}, {"a": 7.0, "b": 1.0}]
    assert resumed(RunningStd(), batches, cut, Stateful) == resumed(RunningStd(), batches, None, Stateful)
