import pytest
import torch

from cograd.weighting import RunningMean, Stateful

A = [3.0, -1.0, 4.0, 1.0, 5.0]


def by_hand(values, beta):
    """One over the mean of the magnitudes, the newest weighing most."""
    for n in range(1, len(values) + 1):
        shares = [beta ** (n - 1 - i) for i in range(n)]
        yield sum(shares) / sum(s * abs(v) for s, v in zip(shares, values[:n], strict=True))


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9])
def test_each_loss_is_divided_by_the_mean_of_its_magnitudes(beta, weights_over):
    history, state = weights_over(RunningMean(beta=beta), [{"a": v} for v in A])
    assert [h["a"] for h in history] == pytest.approx(list(by_hand(A, beta)), rel=1e-12)
    assert state["count"] == {"a": 5}


def test_the_first_weight_is_the_reciprocal(weights_over):
    assert weights_over(RunningMean(), [{"a": 8.0}])[0][0]["a"] == pytest.approx(1 / 8, rel=1e-12)


def test_an_absent_loss_keeps_its_mean(weights_over):
    batches = [{"a": 3.0}, {"a": None, "b": 2.0}, {"a": -1.0, "b": 2.0}, {"b": 5.0}, {"a": 4.0}]
    history, state = weights_over(RunningMean(beta=0.5), batches)
    assert [h["a"] for h in history if "a" in h] == pytest.approx(list(by_hand(A[:3], 0.5)))
    assert [h["b"] for h in history if "b" in h] == pytest.approx(list(by_hand([2.0, 2.0, 5.0], 0.5)))
    assert state["count"] == {"a": 3, "b": 3}


def test_the_floor_bounds_the_weight(weights_over):
    assert weights_over(RunningMean(floor=0.25), [{"a": 0.0}, {"a": 1e-3}])[0] == [{"a": 4.0}, {"a": 4.0}]


def test_half_precision_is_kept_in_float32():
    balance = Stateful(RunningMean(beta=0.9))
    for step, value in enumerate([3.0, 1.0, 4.0]):
        weight = balance.weigh({"a": torch.tensor(value, dtype=torch.bfloat16)}, step)["a"]
        balance.commit()
    assert weight.dtype == torch.float32
    assert weight.item() == pytest.approx(list(by_hand([3.0, 1.0, 4.0], 0.9))[-1], rel=1e-5)


@pytest.mark.parametrize("cut", [1, 2])
def test_it_resumes(cut, resumed):
    batches = [{"a": 2.0, "b": None}, {"a": 3.0, "b": 5.0}, {"a": 7.0, "b": 1.0}]
    assert resumed(RunningMean(), batches, cut, Stateful) == resumed(RunningMean(), batches, None, Stateful)
