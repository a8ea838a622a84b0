"""``log.csv``: a table that other tools read, also after a kill, a full disk, a continued run."""

import csv
import math
import os

import numpy as np
import pytest

from cograd.errors import LogError, LogFileError
from cograd.training.loggers import CSV


def text(folder):
    return (folder / "log.csv").read_text()


@pytest.fixture
def log(tmp_path):
    """``log(*steps, step=0, state=None)``: a logger that started there and took a value at each of these steps."""
    loggers = []

    def make(*steps, step=0, state=None):
        logger = CSV()
        loggers.append(logger)
        if state is not None:
            logger.load_state_dict(state)
        logger.start(tmp_path, {}, step)
        for at in steps:
            logger.log({"loss/a": at / 8}, at)
        return logger

    yield make
    for logger in loggers:
        logger.finish()


def test_each_call_is_a_row_that_is_there_at_once(tmp_path, log):
    logger = log(8)
    assert text(tmp_path) == "step,loss/a\n8,1.0\n"
    logger.log({"loss/a": 0.5}, 16)
    assert text(tmp_path) == "step,loss/a\n8,1.0\n16,0.5\n"


def test_columns_that_come_later_are_empty_before(tmp_path, log):
    logger = log(8)
    logger.log({"loss/b": 2, "loss/a": 3.5}, 16)
    logger.log({"loss/b": 4.5}, 24)
    logger.log({"c": 0.25}, 24)
    assert text(tmp_path) == "step,loss/a,loss/b,c\n8,1.0,,\n16,3.5,2,\n24,,4.5,\n24,,,0.25\n"


def test_numpy_and_float_read_what_is_not_finite(tmp_path, log):
    log().log({"a": math.nan, "b": math.inf, "c": -math.inf, "d": 1e-7}, 1)
    table = np.genfromtxt(tmp_path / "log.csv", delimiter=",", names=True)
    assert [str(float(table[name])) for name in "abcd"] == ["nan", "inf", "-inf", "1e-07"]


def test_any_name_is_quoted_as_it_must_be(tmp_path, log):
    names = ["a,b", 'the "best"', "two\nlines", "größe"]
    logger = log()
    logger.log(dict.fromkeys(names, 1.0), 1)
    logger.log({"new": 1.0}, 2)
    with (tmp_path / "log.csv").open(newline="", encoding="utf-8") as file:
        assert next(csv.reader(file)) == ["step", *names, "new"]
    state = logger.state_dict()
    continued = log(step=2, state=state)
    continued.log({"two\nlines": 3.0}, 3)
    with (tmp_path / "log.csv").open(newline="", encoding="utf-8") as file:
        assert [row["two\nlines"] for row in csv.DictReader(file)] == ["1.0", "", "3.0"]


def test_a_fresh_run_starts_an_empty_table(log, tmp_path):
    log(1, 2)
    log()
    assert text(tmp_path) == "step\n"


def test_a_continued_run_has_the_rows_and_columns_of_its_checkpoint(log, tmp_path):
    logger = log(8, 16)
    state = logger.state_dict()
    before = text(tmp_path)
    logger.log({"later": 7.0}, 16)  # of the same step, but after the checkpoint
    logger.log({"loss/a": 7.0}, 24)
    continued = log(step=16, state=state)
    assert text(tmp_path) == before
    continued.log({"loss/a": 3.0}, 24)
    assert text(tmp_path) == before + "24,3.0\n"
    assert continued.state_dict() == {"rows": 3}


def test_without_a_state_the_steps_decide_and_a_torn_last_row_goes(log, tmp_path):
    log(8, 16, 24).finish()
    file = tmp_path / "log.csv"
    file.write_text(text(tmp_path) + "16,0.1")
    log(step=16)
    assert text(tmp_path) == "step,loss/a\n8,1.0\n16,2.0\n"


def test_a_torn_row_that_looks_whole_goes_too(log, tmp_path):
    logger = log(8)
    state = logger.state_dict()
    logger.finish()
    (tmp_path / "log.csv").write_text(text(tmp_path) + "16,0.12")
    log(step=16, state={"rows": 1})
    assert state == {"rows": 1}
    assert text(tmp_path) == "step,loss/a\n8,1.0\n"


def test_lost_rows_are_reported_and_the_rest_is_continued(log, tmp_path):
    logger = log(8, 16)
    state = logger.state_dict()
    logger.finish()
    (tmp_path / "log.csv").write_text("step,loss/a\n8,1.0\n16,2")
    with pytest.warns(UserWarning, match="has lost rows since the checkpoint: 1 of 2 are left"):
        log(24, step=16, state=state)
    assert text(tmp_path) == "step,loss/a\n8,1.0\n24,3.0\n"
    (tmp_path / "log.csv").unlink()
    with pytest.warns(UserWarning, match="0 of 2 are left"):
        log(24, step=16, state=state)
    assert text(tmp_path) == "step,loss/a\n24,3.0\n"


@pytest.mark.parametrize(
    "content", [b"dear diary\n", b"step,a\n1,2,3\n", b"step,a\nx,2\n", b"\xff\xfe\n", b'step,"a\n']
)
def test_a_file_that_is_no_log_is_not_touched(content, log, tmp_path):
    (tmp_path / "log.csv").write_bytes(content)
    with pytest.raises(LogFileError, match="is not a table with a step in each row"):
        log(step=20)
    assert (tmp_path / "log.csv").read_bytes() == content


def test_an_empty_file_is_a_table_without_rows(log, tmp_path):
    (tmp_path / "log.csv").touch()
    log(24, step=20)
    assert text(tmp_path) == "step,loss/a\n24,3.0\n"


def test_a_new_column_for_which_there_is_no_room_leaves_the_old_table(log, tmp_path, monkeypatch):
    logger = log(8)

    def full(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(LogFileError, match=r"what was in it is whole: No space left on device\. Free some space"):
            logger.log({"new": 1.0}, 16)
    assert [path.name for path in tmp_path.iterdir()] == ["log.csv"]
    assert text(tmp_path) == "step,loss/a\n8,1.0\n"
    logger.log({"loss/a": 2.0}, 16)
    logger.log({"new": 1.0}, 24)
    assert text(tmp_path) == "step,loss/a,new\n8,1.0,\n16,,1.0\n16,2.0,\n24,,1.0\n"


def test_what_a_killed_write_left_is_removed(log, tmp_path):
    (tmp_path / ".log.csv.4711.tmp").touch()
    log()
    assert [path.name for path in tmp_path.iterdir()] == ["log.csv"]


def test_a_directory_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(LogFileError, match=r"No such file or directory\. Make the folder first") as caught:
        CSV().start(tmp_path / "nowhere", {}, 0)
    assert str(tmp_path / "nowhere" / "log.csv") in str(caught.value)


def test_misuse_is_refused(log, tmp_path):
    with pytest.raises(LogError, match=r"CSV\.log needs a started logger"):
        CSV().log({"a": 1.0}, 1)
    with pytest.raises(LogError, match=r"CSV writes log\.csv into the run directory, and there is none"):
        CSV().start(None, {}, 0)
    logger = log(8)
    with pytest.raises(LogError, match=r"values\['b'\] must be a single number, found str 'x'"):
        logger.log({"loss/a": 1.0, "b": "x"}, 16)
    assert text(tmp_path) == "step,loss/a\n8,1.0\n"
    logger.finish()
    logger.finish()
    with pytest.raises(LogError, match="Call start"):
        logger.log({"loss/a": 1.0}, 16)
