"""Criteria: when they stop, what they say, what they remember, and what they refuse."""

import copy
from datetime import timedelta

import pytest

from cograd.errors import StateError, TrainingError
from cograd.training import AnyOf, Criterion, MaxSteps, Plateau, Target, TimeLimit


def feed(criterion, values, metric="val/a", first=0):
    return [criterion.check({metric: v}, step, seconds=0.0) for step, v in enumerate(values, first)]


def when(criterion, values):
    return next((i for i, reason in enumerate(feed(criterion, values)) if reason), None)


@pytest.mark.parametrize(
    ("plateau", "values", "expected"),
    [
        (Plateau("val/a", patience=2), [3.0, 2.0, 2.0, 1.0, 1.5, 1.2], 5),
        (Plateau("val/a", patience=1), [3.0, 2.0, 1.0], None),
        (Plateau("val/a", patience=2, min_delta=0.5), [3.0, 2.8, 2.6, 1.0], 2),
        (Plateau("val/a", patience=2, min_delta=0.5), [3.0, 2.8, 2.4, 2.3, 1.0], None),
        (Plateau("val/a", patience=2, higher_is_better=True), [1.0, 2.0, 2.0, 1.0], 3),
        (Plateau("val/a", patience=2), [float("nan"), float("nan")], 1),
        (Plateau("val/a", patience=2), [float("nan"), 1.0, float("nan"), 2.0], 3),
        (Plateau("val/a", patience=2), [1.0, float("nan"), 0.5, float("nan")], None),
        (Plateau("val/a", patience=2), [1.0, float("inf"), 0.5, 0.4], None),
    ],
)
def test_plateau_stops_after_patience_values_without_improvement(plateau, values, expected):
    assert when(plateau, values) == expected


def test_a_plateau_counts_values_not_steps():
    plateau = Plateau("val/a", patience=2)
    assert plateau.check({"val/a": 1.0}, 10, 0.0) is None
    for step in range(11, 100):
        assert plateau.check({}, step, 0.0) is None
        assert plateau.check({"loss/a": 5.0}, step, 0.0) is None
    assert plateau.check({"val/a": 1.0}, 100, 0.0) is None
    assert plateau.check({"val/a": 1.0}, 200, 0.0) == "val/a has not improved 2 times in a row (best: 1 at step 10)"


def test_a_plateau_of_nothing_but_nan_says_so():
    assert "always NaN" in feed(Plateau("val/a", patience=1), [float("nan")])[0]


@pytest.mark.parametrize("at", range(5))
def test_a_plateau_continues_from_its_state(at):
    values = [5.0, 4.0, 4.0, 3.0, 3.0, 3.0]
    whole = feed(Plateau("val/a", patience=2), values)
    first, second = Plateau("val/a", patience=2), Plateau("val/a", patience=2)
    before = feed(first, values[:at])
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert before + feed(second, values[at:], first=at) == whole


def test_max_steps_and_target_and_time():
    assert MaxSteps(3).check({}, 2, 0.0) is None
    assert MaxSteps(3).check({}, 3, 0.0) == "the limit of 3 steps is reached"
    target = Target("val/a", 0.1)
    assert feed(target, [0.2, float("nan"), 0.1]) == [None, None, "val/a is 0.1, which reaches 0.1"]
    assert when(Target("val/a", 0.9, higher_is_better=True), [0.2, 0.95]) == 1
    assert TimeLimit(10).check({}, 1, 9.9) is None
    assert TimeLimit(10).check({}, 1, 10.0) == "the time limit of 0:00:10 is over"


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (90, 90.0),
        (1.5, 1.5),
        (timedelta(minutes=2), 120.0),
        ("2h30m", 9000.0),
        ("1.5h", 5400.0),
        ("90s", 90.0),
        ("1d 2h", 93600.0),
        ("2H", 7200.0),
    ],
)
def test_ways_to_write_a_time(given, seconds):
    assert TimeLimit(given).seconds == seconds


@pytest.mark.parametrize("given", ["", "2", "2x", "h", "-2h", 0, -1, float("nan"), float("inf"), None, True, [], "0s"])
def test_what_is_no_time(given):
    with pytest.raises(TrainingError, match=r"TimeLimit needs a length of time above 0.*found"):
        TimeLimit(given)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Plateau(3), "name of a value.*found 3"),
        (lambda: Plateau(""), "name of a value"),
        (lambda: Plateau("val/a", patience=0), "patience.*at least 1; found 0"),
        (lambda: Plateau("val/a", patience=1.5), "patience.*found 1.5"),
        (lambda: Plateau("val/a", min_delta=-1), "min_delta.*found -1"),
        (lambda: Plateau("val/a", min_delta=float("nan")), "min_delta.*found nan"),
        (lambda: Plateau("val/a", higher_is_better="max"), "True or False; found 'max'"),
        (lambda: MaxSteps(0), "at least 1; found 0"),
        (lambda: MaxSteps(True), "found True"),
        (lambda: Target("val/a", "high"), "must be a number; found 'high'"),
        (lambda: Target("val/a", float("nan")), "must be a number; found nan"),
    ],
)
def test_bad_arguments(make, says):
    with pytest.raises(TrainingError, match=says):
        make()


def test_combined_criteria_stop_when_one_does_and_all_see_every_value():
    both = Plateau("val/a", patience=2) | Target("val/b", 0.0) | MaxSteps(9)
    assert isinstance(both, AnyOf)
    assert both.metrics == ("val/a", "val/b")
    assert both.check({"val/a": 1.0, "val/b": 1.0}, 1, 0.0) is None
    assert both.check({"val/a": 1.0, "val/b": 0.0}, 2, 0.0) == "val/b is 0, which reaches 0"
    assert both.check({"val/a": 1.0}, 3, 0.0) == "val/a has not improved 2 times in a row (best: 1 at step 1)"
    assert both.check({"val/a": 1.0}, 9, 0.0).endswith("at step 1); the limit of 9 steps is reached")


def test_combined_criteria_are_flat_print_as_written_and_continue():
    whole = Plateau("val/a") | (MaxSteps(9) | TimeLimit(60))
    assert repr(whole) == (
        "Plateau(metric='val/a', patience=5, higher_is_better=False, min_delta=0.0) | MaxSteps(n=9) | "
        "TimeLimit(seconds=60.0)"
    )
    whole.check({"val/a": 1.0}, 4, 0.0)
    other = Plateau("val/a") | MaxSteps(9) | TimeLimit(60)
    other.load_state_dict(whole.state_dict())
    assert other.state_dict() == whole.state_dict() != (Plateau("val/a") | MaxSteps(9) | TimeLimit(60)).state_dict()


def test_a_criterion_of_ones_own():
    class Never(Criterion):
        def check(self, values, step, seconds):
            return None

    assert (Never() | MaxSteps(1)).check({}, 1, 0.0) == "the limit of 1 steps is reached"
    assert (Never() | MaxSteps(1)).metrics == ()
    with pytest.raises(TypeError):
        Never() | "val/a"


@pytest.mark.parametrize(
    ("criterion", "state"),
    [
        (Plateau("val/a"), {"best": 1.0}),
        (Plateau("val/a"), [1]),
        (MaxSteps(2), {"n": 2}),
        (Plateau("val/a") | MaxSteps(2), {"parts": [{}]}),
        (Plateau("val/a") | MaxSteps(2), {}),
    ],
)
def test_a_state_of_another_criterion(criterion, state):
    before = criterion.state_dict()
    with pytest.raises(StateError):
        criterion.load_state_dict(state)
    assert criterion.state_dict() == before


@pytest.mark.parametrize("parts", [(), None, "ab", (MaxSteps(1), None), [MaxSteps(1)], MaxSteps])
def test_any_of_nothing_would_never_stop(parts):
    with pytest.raises(TrainingError, match=r"AnyOf\(parts\) must be a tuple of criteria.*; found "):
        AnyOf(parts)
