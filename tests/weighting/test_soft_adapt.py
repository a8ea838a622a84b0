import math

import pytest

from cograd.errors import WeightingError
from cograd.weighting import SoftAdapt, Stateful

BATCHES = [{"a": 2.0, "b": 0.5, "c": 4.0}, {"a": 1.8, "b": 0.6, "c": 3.0}]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (SoftAdapt(scale="paper"), [0.33857321883022945, 0.34888430841884616, 0.3125424727509243]),
        (SoftAdapt(0.7, "normalised", "paper"), [0.3539413868473602, 0.41599356320882896, 0.2300650499438109]),
    ],
)
def test_known_answer(rule, expected, weights_over):
    """The softmax of softadapt/base of dr-aheydari/SoftAdapt on first differences."""
    history, _ = weights_over(rule, BATCHES)
    assert [*history[0].values()] == pytest.approx([1 / 3] * 3)
    assert [*history[1].values()] == pytest.approx(expected, abs=1e-12)


def test_the_sum_is_the_number_of_losses(weights_over):
    history, _ = weights_over(SoftAdapt(), BATCHES)
    assert history[0] == {"a": 1.0, "b": 1.0, "c": 1.0}
    assert sum(history[1].values()) == pytest.approx(3)


def test_the_sign_of_beta_says_whom_to_favour(weights_over):
    worst, _ = weights_over(SoftAdapt(beta=2.0), BATCHES)
    best, _ = weights_over(SoftAdapt(beta=-2.0), BATCHES)
    assert max(worst[1], key=worst[1].get) == "b"
    assert max(best[1], key=best[1].get) == "c"


@pytest.mark.parametrize("slopes", ["plain", "normalised"])
def test_constant_losses_weigh_one(slopes, weights_over):
    assert weights_over(SoftAdapt(slopes=slopes), BATCHES[:1] * 3)[0] == [{"a": 1.0, "b": 1.0, "c": 1.0}] * 3


def test_the_slope_is_that_since_the_loss_was_last_present(weights_over):
    batches = [{"a": 1.0, "b": 4.0}, {"a": 1.0}, {"a": 1.0, "b": 3.0, "c": 9.0}]
    history, _ = weights_over(SoftAdapt(beta=1.0), batches)
    share = 3 / (2 + math.exp(-1))
    assert history[2] == pytest.approx({"a": share, "b": share * math.exp(-1), "c": share})


def test_normalised_slopes_do_not_depend_on_a_common_unit(weights_over):
    small, _ = weights_over(SoftAdapt(slopes="normalised"), BATCHES)
    large, _ = weights_over(SoftAdapt(slopes="normalised"), [{n: 1e3 * v for n, v in b.items()} for b in BATCHES])
    assert small[1] == pytest.approx(large[1])


@pytest.mark.parametrize("cut", [1, 2])
def test_it_resumes(cut, resumed):
    batches = [{"a": 2.0, "b": None}, {"a": 3.0, "b": 5.0}, {"a": 7.0, "b": 1.0}]
    assert resumed(SoftAdapt(), batches, cut, Stateful) == resumed(SoftAdapt(), batches, None, Stateful)


@pytest.mark.parametrize("beta", [math.inf, math.nan, "0.1"])
def test_a_beta_that_is_no_finite_number_is_refused(beta):
    with pytest.raises(WeightingError, match="SoftAdapt: beta must be a finite number; found"):
        SoftAdapt(beta=beta)


def test_unknown_slopes_are_refused():
    with pytest.raises(WeightingError, match="slopes must be one of 'plain', 'normalised'; found 'steep'"):
        SoftAdapt(slopes="steep")
