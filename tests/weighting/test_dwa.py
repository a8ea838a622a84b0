import pytest
import torch

from cograd.errors import WeightingError
from cograd.weighting import DWA, Seen, Stateful

MEANS = [[1.0, 2.0, 0.5], [0.8, 1.9, 0.55], [0.7, 1.2, 0.5], [1.0, 1.0, 1.0]]
EXPECTED = [
    [1.0, 1.0, 1.0],
    [1.0, 1.0, 1.0],
    [0.9260064103, 0.9981276333, 1.0758659565],
    [1.0335574788, 0.9151165799, 1.0513259413],
]


@pytest.mark.parametrize("window", [None, 2])
def test_known_answer(window):
    """Weights of im2im_pred/utils.py of lorenmt/mtan, here with two batches on either side of each mean."""
    rule, state, names = DWA(window=window), {}, ("a", "b", "c")
    for epoch, means in enumerate(MEANS):
        for batch, factor in enumerate((0.9, 1.1)):
            losses = factor * torch.tensor(means, dtype=torch.float64)
            step = 2 * epoch + batch
            look = Seen(names, losses, (True,) * 3, step, epoch=0 if window else epoch)
            weights, state = rule.weigh(look, state)
            torch.testing.assert_close(weights, torch.tensor(EXPECTED[epoch], dtype=torch.float64), rtol=0, atol=1e-8)


def test_without_the_end_of_an_epoch_all_weights_stay_one(weights_over):
    history, _ = weights_over(DWA(), [{"a": 1.0, "b": 5.0}, {"a": 3.0, "b": 0.1}, {"a": 9.0, "b": 0.2}])
    assert history == [{"a": 1.0, "b": 1.0}] * 3


def test_the_mean_counts_the_batches_in_which_a_loss_was_present(weights_over):
    full = [
        {"a": 1.0, "b": 4.0},
        {"a": 1.0, "b": 4.0},
        {"a": 0.5, "b": 3.0},
        {"a": 0.5, "b": 3.0},
        {"a": 1.0, "b": 1.0},
    ]
    gaps = [{"a": 1.0, "b": 4.0}, {"a": 1.0, "b": 4.0}, {"a": 0.5}, {"a": 0.5, "b": 3.0}, {"a": 1.0, "b": 1.0}]
    assert weights_over(DWA(window=2), gaps)[0][-1] == weights_over(DWA(window=2), full)[0][-1]


def test_a_window_without_a_loss_does_not_count_for_it(weights_over):
    batches = [{"a": 1.0, "b": 4.0}, {"a": 1.0, "b": 2.0}, {"a": 1.0}, {"a": 1.0, "b": 7.0}]
    history, state = weights_over(DWA(window=1), batches)
    assert history[2] == {"a": 1.0}
    assert history[3]["b"] == pytest.approx(2 * 0.4378234991)  # softmax of (1, 0.5) / 2
    assert {name: value.item() for name, value in state["before"].items()} == {"a": 1.0, "b": 4.0}


def test_a_loss_that_is_new_or_was_zero_has_the_ratio_one(weights_over):
    batches = [{"a": 1.0, "b": 0.0}, {"a": 1.0, "b": 2.0}, {"a": 1.0, "b": 2.0, "c": 5.0}]
    assert weights_over(DWA(window=1), batches)[0][-1] == {"a": 1.0, "b": 1.0, "c": 1.0}


@pytest.mark.parametrize("cut", [1, 2, 3, 4])
def test_it_resumes(cut, resumed):
    batches = [{"a": 2.0, "b": None}, {"a": 3.0, "b": 5.0}, {"a": 7.0, "b": 1.0}, {"a": 1.0, "b": 9.0}, {"a": 2.0}]
    rule = DWA(window=1)
    assert resumed(rule, batches, cut, Stateful) == resumed(rule, batches, None, Stateful)


@pytest.mark.parametrize("window", [0, -1, 2.5, "epoch"])
def test_a_window_that_is_no_number_of_steps_is_refused(window):
    with pytest.raises(WeightingError, match="DWA: window must be a whole number of at least 1, or None; found"):
        DWA(window=window)


def test_a_temperature_of_zero_is_refused():
    with pytest.raises(WeightingError, match=r"DWA: temperature must be a number in \(0, inf\); found 0"):
        DWA(temperature=0)


def test_end_epoch_ends_a_window():
    balance = Stateful(DWA())
    for means in MEANS:
        losses = dict(zip("abc", torch.tensor(means, dtype=torch.float64), strict=True))
        weights = balance.weigh(losses, balance.steps)
        balance.commit()
        balance.end_epoch()
    assert [w.item() for w in weights.values()] == pytest.approx(EXPECTED[-1], abs=1e-8)
