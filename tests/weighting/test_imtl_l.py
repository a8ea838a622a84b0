import pytest
import torch

from cograd.errors import WeightingError
from cograd.weighting import IMTLL, Seen, Stateful, Uncertainty


def test_known_answer():
    """Gradients of TorchJD 0.18's IMTLL at s = (0.3, -0.4): exp(s), and 1 - exp(s) * loss against it."""
    s = {"a": torch.tensor(0.3, dtype=torch.float64), "b": torch.tensor(-0.4, dtype=torch.float64)}
    losses = torch.tensor([2.0, 0.5], dtype=torch.float64)
    weights, state = IMTLL(lr=0.01).weigh(Seen(("a", "b"), losses, (True, True)), {"s": s})
    assert weights.tolist() == pytest.approx([1.3498588075760032, 0.6703200460356393], abs=1e-12)
    moved = [(state["s"][name] - s[name]).item() / 0.01 for name in s]
    assert moved == pytest.approx([-1.6997176151520064, 0.6648399769821804], abs=1e-9)


def test_it_is_twice_uncertainty_for_regression(weights_over):
    batches = [{"a": 3.0, "b": 0.2}, {"a": 2.5, "b": 0.3}, {"a": 2.0, "b": 0.1}]
    scaled, _ = weights_over(IMTLL(lr=0.1), batches)
    variance, _ = weights_over(Uncertainty(lr=0.2), batches)
    for one, two in zip(scaled, variance, strict=True):
        assert one == pytest.approx({name: 2 * w for name, w in two.items()})


def test_a_constant_loss_reaches_its_reciprocal_from_both_sides(weights_over):
    for start in (0.01, 300.0):
        history, _ = weights_over(IMTLL(lr=0.1), [{"a": start}] * 100 + [{"a": 4.0}] * 200)
        assert history[-1]["a"] == pytest.approx(0.25, rel=1e-6)


def test_a_huge_loss_does_not_throw_s_past_its_best(weights_over):
    history, _ = weights_over(IMTLL(lr=1.0), [{"a": 1e6}] * 3)
    assert [h["a"] for h in history] == pytest.approx([1.0, 1e-6, 1e-6])


def test_an_absent_loss_keeps_its_s(weights_over):
    batches = [{"a": 3.0}, {"a": None, "b": 2.0}, {"a": 3.0, "b": 2.0}]
    with_gap, _ = weights_over(IMTLL(), batches)
    without, _ = weights_over(IMTLL(), [{"a": 3.0}, {"a": 3.0}])
    assert with_gap[2]["a"] == without[1]["a"]
    assert with_gap[1]["b"] == 1.0


def test_a_loss_of_zero_has_a_finite_weight(weights_over):
    history, _ = weights_over(IMTLL(lr=2.0, floor=1e-3), [{"a": 0.0}] * 50)
    assert history[-1]["a"] == pytest.approx(1000)


def test_a_negative_loss_is_reported():
    assert IMTLL()(torch.tensor([-1.0, 1.0])).isnan().tolist() == [True, False]


@pytest.mark.parametrize("cut", [1, 2])
def test_it_resumes(cut, resumed):
    batches = [{"a": 2.0, "b": None}, {"a": 3.0, "b": 5.0}, {"a": 7.0, "b": 1.0}]
    assert resumed(IMTLL(), batches, cut, Stateful) == resumed(IMTLL(), batches, None, Stateful)


@pytest.mark.parametrize("options", [{"lr": -1}, {"floor": 0}])
def test_a_number_out_of_range_is_refused(options):
    with pytest.raises(WeightingError, match=rf"IMTLL: {next(iter(options))} must be a number in .*; found"):
        IMTLL(**options)
