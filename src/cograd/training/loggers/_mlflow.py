"""A run at an MLflow tracking server."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from cograd.errors import LogError, shown
from cograd.training.loggers._numbers import numbers, require, started, text

T = TypeVar("T")


class MLflow:
    """Logs to MLflow: ``config`` as parameters, values as metrics.

    The checkpoint holds the id of the run, and a run that continues goes on under it. MLflow removes
    no values: of the steps that come again, those of the killed run stay, and what the run has
    already is not sent a second time. Where a run is continued bit for bit it would be the same. A
    run that was killed before its first checkpoint begins again under a new id. A run that failed
    ends as ``FINISHED`` too, for ``finish`` does not know.

    MLflow's active run and other global settings are neither used nor changed. Names may contain
    letters, digits and ``_-. :/``; MLflow refuses others. ``mlflow-skinny``, which ``cograd[loggers]``
    installs, is for a tracking server; a database as a file needs ``mlflow``.

    Args:
        experiment: its name, which is created unless it exists; otherwise the environment variable
            ``MLFLOW_EXPERIMENT_NAME``, or ``Default``.
        run_name: its name; MLflow finds one unless given.
        tracking_uri: where to; otherwise what MLflow is set to, as by ``MLFLOW_TRACKING_URI``.
        tags: for the run.

    Attributes:
        run_id: of the run, from ``start`` on; ``None`` before.

    Raises:
        MissingPackageError: the package mlflow-skinny (or mlflow) is not installed.

    >>> logger = cograd.training.loggers.MLflow(experiment="digits", tracking_uri="http://localhost:5000")
    """

    def __init__(
        self,
        experiment: str | None = None,
        run_name: str | None = None,
        tracking_uri: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        require("mlflow", self)
        self._experiment = text(self, "experiment", experiment)
        self._run_name = text(self, "run_name", run_name)
        self._tracking_uri = text(self, "tracking_uri", tracking_uri)
        parts = [part for tag in tags.items() for part in tag] if isinstance(tags, Mapping) else []
        if not isinstance(tags, Mapping | None) or not all(isinstance(part, str) for part in parts):
            raise LogError(f"MLflow(tags=...) must map text to text, or be None; found {shown(tags)}.")
        self._tags = dict(tags or {})
        self._client: Any = None
        self.run_id: str | None = None
        self._continued: str | None = None
        self._has: dict[str, int] = {}

    def start(self, run_dir: Path | None, config: Mapping[str, Any], step: int) -> None:
        """Begin a run, or go on with that of the loaded state."""
        from mlflow import MlflowClient
        from mlflow.entities import Param

        self._client = MlflowClient(tracking_uri=self._tracking_uri)
        self.run_id, self._continued = self._continued, None
        self._has = {}
        if self.run_id is not None:
            self._client.update_run(self.run_id, status="RUNNING")
            for name in self._client.get_run(self.run_id).data.metrics:
                self._has[name] = max(value.step for value in self._client.get_metric_history(self.run_id, name))
            return
        self.run_id = self._client.create_run(
            self._experiment_id(), run_name=self._run_name, tags=self._tags
        ).info.run_id
        for some in _batches([Param(name, str(value)[:_LONGEST_PARAM]) for name, value in config.items()], 100):
            self._client.log_batch(self.run_id, params=some)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Send the values, and wait until they have arrived.

        Raises:
            LogError: a value is not a number, or ``start`` was not called.
        """
        if self._client is None:
            raise started(self)
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        new = {name: value for name, value in numbers(values).items() if step > self._has.get(name, -1)}
        for some in _batches([Metric(name, value, now, step) for name, value in new.items()], 1000):
            self._client.log_batch(self.run_id, metrics=some)

    def finish(self) -> None:
        """End the run."""
        if self._client is not None:
            self._client.set_terminated(self.run_id)
        self._client = None

    def state_dict(self) -> dict[str, str]:
        """The id of the run."""
        return {} if self.run_id is None else {"id": self.run_id}

    def load_state_dict(self, state: Mapping[str, str]) -> None:
        """The next ``start`` goes on with the run of ``state``."""
        self._continued = state.get("id")

    def _experiment_id(self) -> str:
        name = self._experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or "Default"
        experiment = self._client.get_experiment_by_name(name)
        return str(experiment.experiment_id if experiment else self._client.create_experiment(name))


_LONGEST_PARAM = 6000  # what a tracking server takes


def _batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """At most as many as a server takes at once."""
    return (items[i : i + size] for i in range(0, len(items), size))
