"""Event files for TensorBoard."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from textwrap import indent
from typing import Any

from cograd.errors import LogError, shown
from cograd.training.loggers._numbers import inside, numbers, require, started


class TensorBoard:
    """Writes event files for ``tensorboard --logdir runs``, at each call.

    A run that continues writes a file of its own, which tells TensorBoard to show nothing of later
    steps from the files before it. They stay on the disk.

    Args:
        folder: where to; ``tensorboard`` in the run directory unless given.

    Raises:
        MissingPackageError: the package tensorboard is not installed.

    >>> import pathlib, tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> logger = cograd.training.loggers.TensorBoard()
    >>> logger.start(pathlib.Path(folder.name), {"lr": 0.01}, step=0)
    >>> logger.log({"loss/digit": 0.5}, step=50)
    >>> logger.finish()
    >>> [path.name.partition(".")[0] for path in pathlib.Path(folder.name, "tensorboard").iterdir()]
    ['events']
    >>> folder.cleanup()
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        require("tensorboard", self)
        if not isinstance(folder, str | os.PathLike | None) or folder == "":
            raise LogError(f"TensorBoard(folder=...) must be a path, or None; found {shown(folder)}.")
        self._folder = None if folder is None else Path(folder)
        self._writer: Any = None

    def start(self, run_dir: Path | None, config: Mapping[str, Any], step: int) -> None:
        """Begin a file; that of a fresh run holds ``config`` as a text.

        Raises:
            LogError: with neither a folder nor a run directory.
        """
        from torch.utils.tensorboard import SummaryWriter

        folder = self._folder or inside(run_dir, "tensorboard", "TensorBoard")
        self._writer = SummaryWriter(str(folder), purge_step=step + 1 if step else 0)
        if step == 0 and config:
            text = "\n".join(f"{name}: {value}" for name, value in config.items())
            self._writer.add_text("config", indent(text, "    "), 0)  # as it is, not as Markdown

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Write the values.

        Raises:
            LogError: a value is not a number, or ``start`` was not called.
        """
        if self._writer is None:
            raise started(self)
        for name, value in numbers(values).items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def finish(self) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
