"""Runs at MLflow, in a store of files."""

import math
import sys

import pytest

from cograd.errors import LogError, MissingPackageError
from cograd.training.loggers import MLflow


@pytest.fixture
def client(tmp_path, monkeypatch):
    """A client of a store in this folder; nothing is written elsewhere, and nothing reported."""
    for name in ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK", "MLFLOW_ALLOW_FILE_STORE"):
        monkeypatch.setenv(name, "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    from mlflow import MlflowClient

    return MlflowClient()


def history(client, logger, name):
    return [(value.step, value.value) for value in client.get_metric_history(logger.run_id, name)]


def test_values_are_metrics_and_config_is_parameters(client, tmp_path):
    logger = MLflow(experiment="digits", run_name="first", tags={"who": "me"})
    assert logger.run_id is None
    assert logger.state_dict() == {}
    logger.start(tmp_path, {"lr": 0.1, "long": "x" * 7000} | {f"p{i}": i for i in range(150)}, 0)
    logger.log({"loss/a": 0.5, "loss/b": math.inf}, 10)
    logger.log({"loss/a": math.nan}, 20)
    run = client.get_run(logger.run_id)
    assert run.info.status == "RUNNING"
    assert client.get_experiment(run.info.experiment_id).name == "digits"
    assert (run.info.run_name, run.data.tags["who"]) == ("first", "me")
    assert (run.data.params["lr"], run.data.params["p149"], len(run.data.params["long"])) == ("0.1", "149", 6000)
    (first, second) = history(client, logger, "loss/a")
    assert first == (10, 0.5)
    assert second[0] == 20
    assert math.isnan(second[1])
    assert history(client, logger, "loss/b") == [(10, math.inf)]
    logger.finish()
    logger.finish()
    assert client.get_run(logger.run_id).info.status == "FINISHED"


def test_more_values_than_a_server_takes_at_once(client):
    logger = MLflow()
    logger.start(None, {}, 0)
    logger.log({f"loss/{i}": i for i in range(1200)}, 1)
    assert len(client.get_run(logger.run_id).data.metrics) == 1200


def test_a_continued_run_has_each_step_once(client):
    killed = MLflow(experiment="digits")
    killed.start(None, {"lr": 0.1}, 0)
    for step in (10, 20, 30):
        killed.log({"loss/a": step}, step)
    state = killed.state_dict()
    killed.finish()

    continued = MLflow(experiment="digits")
    continued.load_state_dict(state)
    continued.start(None, {"lr": 0.2}, 20)
    assert continued.run_id == killed.run_id
    assert client.get_run(continued.run_id).info.status == "RUNNING"
    for step in (30, 40):
        continued.log({"loss/a": step, "loss/b": step}, step)
    continued.finish()
    assert history(client, continued, "loss/a") == [(10, 10), (20, 20), (30, 30), (40, 40)]
    assert history(client, continued, "loss/b") == [(30, 30), (40, 40)]
    run = client.get_run(continued.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"lr": "0.1"}
    continued.start(None, {}, 0)  # a fresh run: the state of before is spent
    assert continued.run_id != killed.run_id


def test_the_experiment_is_that_of_the_environment_or_the_default(client, monkeypatch):
    for name in ("Default", "from the environment"):
        logger = MLflow()
        logger.start(None, {}, 0)
        assert client.get_experiment(client.get_run(logger.run_id).info.experiment_id).name == name
        monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "from the environment")


def test_a_store_of_ones_own(client, tmp_path):
    logger = MLflow(tracking_uri=(tmp_path / "other").as_uri())
    logger.start(None, {}, 0)
    assert list((tmp_path / "other").rglob(logger.run_id))


def test_misuse_is_refused(client):
    logger = MLflow()
    logger.finish()
    with pytest.raises(LogError, match="Call start"):
        logger.log({"a": 1.0}, 1)
    logger.start(None, {}, 0)
    with pytest.raises(LogError, match=r"values\['b'\] must be a single number"):
        logger.log({"a": 1.0, "b": "x"}, 1)
    assert client.get_run(logger.run_id).data.metrics == {}


def test_a_missing_package_is_named_with_what_to_type(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(MissingPackageError, match=r'MLflow needs the package mlflow.*"cograd\[loggers\]"'):
        MLflow()
