"""History: values by name, a table, and its state."""

import io

import pytest
import torch

from cograd.errors import UnknownValueError
from cograd.training import Best, History


def filled():
    history = History()
    history.add({"loss/a": 3.0, "loss/b": float("nan")}, 10)
    history.add({"loss/a": 1.0}, 20)
    history.add({"val/a": 2.0}, 20)
    history.stopped_by, history.epochs, history.best = "20 steps are done", 2, Best("val/a", 2.0, 20)
    return history


def test_it_is_a_mapping_of_series():
    history = filled()
    assert list(history) == ["loss/a", "loss/b", "val/a"]
    assert (history["loss/a"].steps, history["loss/a"].values, history["loss/a"].last) == ([10, 20], [3.0, 1.0], 1.0)
    assert "val/a" in history
    assert "val/b" not in history
    assert history.get("val/b") is None
    assert (history.steps, history.epochs) == (20, 2)


def test_an_unknown_name_gets_the_known_ones():
    with pytest.raises(UnknownValueError, match=r"no value 'val/aa'\. Known values: .*Did you mean 'val/a'\?"):
        filled()["val/aa"]


def test_it_prints_as_a_table():
    lines = str(filled()).splitlines()
    assert lines[0].split() == ["value", "first", "last", "lowest", "highest"]
    assert lines[1].split() == ["loss/a", "3", "1", "1", "(at", "20)", "3", "(at", "10)"]
    assert lines[2].split() == ["loss/b", "nan", "nan", "nan", "nan"]
    assert lines[4:] == ["20 steps, 2 epochs; stopped: 20 steps are done", "best val/a: 2 at step 20"]
    assert repr(filled()) == "History(3 values, 20 steps, 2 epochs, stopped_by='20 steps are done')"


def test_its_state_is_plain_and_gives_it_back(same):
    file = io.BytesIO()
    torch.save(filled().state_dict(), file)
    file.seek(0)
    other = History()
    other.load_state_dict(torch.load(file, weights_only=True))
    assert str(other) == str(filled())
    assert other.best == Best("val/a", 2.0, 20)
    other.add({"val/a": 1.0}, 30)
    assert filled()["val/a"].values == [2.0]
    assert other["val/a"].values == [2.0, 1.0]


def test_an_empty_history_prints():
    assert str(History()).splitlines()[-1] == "0 steps, 0 epochs"
