"""The curves of the losses: together while they can be read together."""

from types import SimpleNamespace

import pytest
from matplotlib.figure import Figure

from cograd.cli._picture import draw_curves, save


def axes(curves):
    figure = Figure()
    draw_curves(figure, {name: (list(range(1, len(values) + 1)), values) for name, values in curves.items()})
    return figure.axes


def test_losses_of_like_size_share_their_axes():
    (both,) = axes({"a": [1.0, 0.5], "b": [2.0, 1.0]})
    assert [text.get_text() for text in both.get_legend().get_texts()] == ["a", "b"]
    assert (both.get_xlabel(), both.get_ylabel()) == ("step", "loss")


def test_losses_of_very_different_size_have_axes_of_their_own():
    upper, lower = axes({"a": [100.0, 50.0], "b": [0.2, 0.1]})
    assert (upper.get_ylabel(), lower.get_ylabel()) == ("a", "b")
    assert (upper.get_xlabel(), lower.get_xlabel()) == ("", "step")


@pytest.mark.parametrize("values", [[1.0], [1.0] * 500, [0.0, 0.0], [float("nan"), 1.0, 2.0]])
def test_every_value_has_its_place(values):
    (only,) = axes({"a": values})
    assert all(len(line.get_xdata()) == len(values) for line in only.lines)


def test_the_running_mean_of_a_constant_is_that_constant():
    (only,) = axes({"a": [3.0] * 500})
    assert set(only.lines[-1].get_ydata()) == {3.0}


def test_a_loss_that_was_never_evaluated_is_left_out():
    assert [a.get_ylabel() for a in axes({"a": [1.0], "b": []})] == ["a"]


@pytest.mark.parametrize("title", ["", "what the recipe says"])
def test_a_recipe_may_draw_itself_and_choose_its_title(title, tmp_path):
    drawn = []

    def draw(figure):
        drawn.append(figure)
        if title:
            figure.suptitle(title)

    trial = SimpleNamespace(name="gan", outcome="distance: 1 (noise: 2)", curves={}, recipe=SimpleNamespace(draw=draw))
    assert save(trial, tmp_path / "gan.png").is_file()
    assert drawn[0].get_suptitle() == (title or "gan\ndistance: 1 (noise: 2)")
