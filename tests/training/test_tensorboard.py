"""Event files, as TensorBoard itself reads them."""

import itertools
import math
import sys

import pytest

from cograd.errors import LogError, MissingPackageError
from cograd.training.loggers import TensorBoard


@pytest.fixture(autouse=True)
def _names_in_order(monkeypatch):
    """Files of one second are told apart by a count; that of another test must not have got to two digits."""
    from tensorboard.summary.writer import event_file_writer

    count = itertools.count()
    monkeypatch.setattr(event_file_writer._global_uid, "get", lambda: next(count))


def shown(folder):
    """Name -> [(step, value)], as TensorBoard shows them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder)).Reload()
    return {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}


def texts(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder)).Reload()
    return {n: [e.tensor_proto.string_val[0].decode() for e in events.Tensors(n)] for n in events.Tags()["tensors"]}


def test_values_are_there_at_once_and_config_is_a_text(tmp_path):
    logger = TensorBoard()
    logger.start(tmp_path, {"lr": 0.1, "net": "two\nlines"}, 0)
    logger.log({"loss/a": 0.5, "loss/b": math.inf}, 10)
    logger.log({"loss/a": 0.25}, 20)
    assert shown(tmp_path / "tensorboard") == {"loss/a": [(10, 0.5), (20, 0.25)], "loss/b": [(10, math.inf)]}
    assert texts(tmp_path / "tensorboard") == {"config/text_summary": ["    lr: 0.1\n    net: two\n    lines"]}
    logger.finish()


def test_a_continued_run_shows_nothing_of_later_steps_of_before(tmp_path):
    killed = TensorBoard()
    killed.start(tmp_path, {"lr": 0.1}, 0)
    for step in (10, 20, 30, 40):
        killed.log({"loss/a": step, "loss/b": step}, step)
    killed.finish()
    continued = TensorBoard()
    continued.start(tmp_path, {"lr": 0.1}, 20)
    continued.log({"loss/a": 300.0}, 30)
    continued.finish()
    assert shown(tmp_path / "tensorboard") == {
        "loss/a": [(10, 10), (20, 20), (30, 300)],
        "loss/b": [(10, 10), (20, 20)],
    }
    assert len(texts(tmp_path / "tensorboard")["config/text_summary"]) == 1


def test_a_fresh_run_shows_nothing_of_before(tmp_path):
    for value in (1.0, 2.0):
        logger = TensorBoard()
        logger.start(tmp_path, {}, 0)
        for step in [0, 10] if value == 1 else [0]:
            logger.log({"loss/a": value}, step)
        logger.finish()
    assert shown(tmp_path / "tensorboard") == {"loss/a": [(0, 2.0)]}


def test_a_folder_of_ones_own_needs_no_run_directory(tmp_path):
    logger = TensorBoard(tmp_path / "here")
    logger.start(None, {}, 0)
    logger.log({"loss/a": 1.0}, 1)
    logger.finish()
    logger.finish()
    assert shown(tmp_path / "here") == {"loss/a": [(1, 1.0)]}


def test_misuse_is_refused(tmp_path):
    logger = TensorBoard()
    with pytest.raises(LogError, match="TensorBoard writes tensorboard into the run directory, and there is none"):
        logger.start(None, {}, 0)
    with pytest.raises(LogError, match="Call start"):
        logger.log({"a": 1.0}, 1)
    logger.start(tmp_path, {}, 0)
    with pytest.raises(LogError, match=r"values\['b'\] must be a single number"):
        logger.log({"a": 1.0, "b": "x"}, 1)
    assert shown(tmp_path / "tensorboard") == {}
    logger.finish()


def test_a_missing_package_is_named_with_what_to_type(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(
        MissingPackageError, match=r'TensorBoard needs the package tensorboard.*"cograd\[loggers\]"'
    ) as e:
        TensorBoard()
    assert isinstance(e.value, ImportError)
    assert e.value.name == "tensorboard"
