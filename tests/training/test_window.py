"""The window between two logs: exact means, plain state, no reports without end."""

import math

import pytest
import torch

from cograd import Plan, Report, StepReport
from cograd.training import _window
from cograd.training._window import Window


def report(weights=None, **losses):
    return StepReport(
        [Report({k: torch.tensor(v) for k, v in losses.items()}, weights or dict.fromkeys(losses, 1.0), Plan((), ""))]
    )


def test_means_are_over_the_steps_that_have_the_value():
    window = Window()
    for i in range(4):
        window.add(
            report(a=float(i)) if i % 2 else report(a=float(i), b=2.0, weights={"a": 0.5, "b": torch.tensor(3.0)})
        )
    assert window.means() == {"loss/a": 1.5, "loss/b": 2.0, "weight/a": 0.75, "weight/b": 3.0}
    assert not window
    assert window.means() == {}


@pytest.mark.parametrize("at", range(6))
def test_a_continued_window_has_the_same_means_to_the_last_bit(at):
    whole, first, second = Window(), Window(), Window()
    reports = [report(a=v.item(), b=-v.item()) for v in torch.rand(6)]
    for r in reports:
        whole.add(r)
    for r in reports[:at]:
        first.add(r)
    second.load_state_dict(first.state_dict())
    for r in reports[at:]:
        second.add(r)
    expected, found = whole.means(), second.means()
    assert list(expected) == list(found)
    assert expected == found


def test_a_long_window_keeps_numbers_in_place_of_reports(monkeypatch):
    monkeypatch.setattr(_window, "MOST", 3)
    long, whole = Window(), [v.item() for v in torch.rand(8)]
    for value in whole:
        long.add(report(a=value))
    assert len(long._reports) == 2
    assert long.means()["loss/a"] == math.fsum(whole) / 8


@pytest.mark.parametrize(
    ("values", "mean"), [([1.0, math.inf], math.inf), ([math.nan, 1.0], math.nan), ([math.inf, -math.inf], math.nan)]
)
def test_what_is_not_finite_is_shown(values, mean):
    window = Window()
    for value in values:
        window.add(report(a=value))
    assert window.means()["loss/a"] == pytest.approx(mean, nan_ok=True)


def test_losses_in_half_precision():
    window = Window()
    window.add(StepReport([Report({"a": torch.tensor(0.5, dtype=torch.bfloat16)}, {"a": 1.0}, Plan((), ""))]))
    assert window.means() == {"loss/a": 0.5, "weight/a": 1.0}
