"""A run at Weights & Biases."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cograd.training.loggers._numbers import numbers, require, started


class WandB:
    """Logs to Weights & Biases. Its files go into the run directory, if there is one.

    The checkpoint holds the id of the run, and a run that continues is resumed under it. W&B takes
    nothing for steps that it already has: of the steps that come again, the values of the killed run
    stay, and those of the continued one are dropped with a warning of W&B's. Where a run is
    continued bit for bit they are the same. A run that was killed before its first checkpoint begins
    again under a new id.

    With ``mode="offline"``, each start writes a folder of its own, all with the same id. Whether
    ``wandb sync`` joins them depends on its version; for long, the last one replaced the others
    (https://github.com/wandb/wandb/issues/3841).

    Args:
        init: for ``wandb.init``, such as ``project``, ``entity``, ``name``, ``tags``, ``mode``.
            ``config`` is added to what ``fit`` tells; ``dir`` goes before the run directory.

    A run that you began yourself with ``wandb.init`` is used, and left open.

    Raises:
        MissingPackageError: the package wandb is not installed.

    >>> logger = cograd.training.loggers.WandB(project="digits", tags=["baseline"])
    """

    def __init__(self, **init: Any) -> None:
        require("wandb", self)
        self._init = init
        self._run: Any = None
        self._own = True
        self._id: str | None = None
        self._continued: str | None = None

    def start(self, run_dir: Path | None, config: Mapping[str, Any], step: int) -> None:
        """Begin a run, or resume that of the loaded state."""
        import wandb

        init = {"dir": run_dir} | self._init | {"config": {**config, **self._init.get("config", {})}}
        if self._continued is not None:
            began = {"fork_from", "resume_from"}  # how it began, which it has
            init = {name: value for name, value in init.items() if name not in began}
            init |= {"id": self._continued, "resume": "allow"}
        self._continued = None
        yours = wandb.run
        self._run = wandb.init(**init)
        self._own = self._run is not yours
        self._id = self._run.id

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Send the values.

        Raises:
            LogError: a value is not a number, or ``start`` was not called.
        """
        if self._run is None:
            raise started(self)
        self._run.log(numbers(values), step=step)

    def finish(self) -> None:
        """Wait until all is sent, and end the run."""
        if self._run is not None and self._own:
            self._run.finish()
        self._run = None

    def state_dict(self) -> dict[str, str]:
        """The id of the run."""
        return {} if self._id is None else {"id": self._id}

    def load_state_dict(self, state: Mapping[str, str]) -> None:
        """The next ``start`` resumes the run of ``state``."""
        self._continued = state.get("id")
