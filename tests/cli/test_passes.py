"""The backward passes of a step, in a few characters."""

import pytest

from cograd import Pass, Phase, Plan, StepPlan
from cograd.cli._passes import passes

ONE = Plan((Pass(("a",), ("x",)),), "")
TWO = Plan((Pass(("a",), ("x",)), Pass(("b",), ("y",))), "")


@pytest.mark.parametrize(
    ("phases", "text"),
    [
        ([(Phase("x"), ONE)], "1"),
        ([(Phase("x"), TWO)], "2"),
        ([(Phase("x"), ONE), (Phase("y"), ONE)], "1 + 1"),
        ([(Phase("x", repeat=3), ONE), (Phase("y"), ONE)], "3x1 + 1"),
        ([(Phase("x"), ONE), (Phase("y", every=5), TWO)], "1 + 2/5"),
        ([(Phase("x", every=4, repeat=2), ONE)], "2x1/4"),
        ([(Phase("x", stop=100), ONE), (Phase("y", start=100), TWO)], "1, then 2"),
        ([(Phase("x"), ONE), (Phase("y", start=100), TWO)], "1, then 1 + 2"),
        ([(Phase("x", start=10, stop=20), ONE)], "0, then 1, then 0"),
        ([(Phase("x"), None)], "?"),
    ],
)
def test_passes(phases, text):
    assert passes(StepPlan(tuple(phases))) == text
