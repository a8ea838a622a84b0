"""One line of JSON for each call."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cograd.errors import LogFileError
from cograd.training.loggers._appended import Appended, first_bytes, unreadable, write_in_turn
from cograd.training.loggers._numbers import inside, numbers, started


class JSONL:
    """Writes ``log.jsonl`` into the run directory: ``{"step": 100, "epoch": 2, "loss/digit": 0.31}``.

    Each line is written at once, so a killed run loses none. A run that continues drops what came
    after its checkpoint: without a loaded state, the lines of later steps and a torn last line; with
    it, to the byte. ``config`` is not written.

    JSON has no NaN and no infinity. They are the strings ``"NaN"``, ``"Infinity"`` and ``"-Infinity"``,
    which ``float`` reads, as does ``pandas.read_json(path, lines=True)``.

    >>> import pathlib, tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> logger = cograd.training.loggers.JSONL()
    >>> logger.start(pathlib.Path(folder.name), {}, step=0)
    >>> logger.log({"epoch": 0, "loss/digit": 0.5}, step=50)
    >>> logger.log({"loss/digit": float("nan")}, step=100)
    >>> logger.finish()
    >>> print(pathlib.Path(folder.name, "log.jsonl").read_text(), end="")
    {"step": 50, "epoch": 0, "loss/digit": 0.5}
    {"step": 100, "loss/digit": "NaN"}
    >>> folder.cleanup()
    """

    def __init__(self) -> None:
        self._file: Appended | None = None
        self._checkpointed: int | None = None
        self._waiting: list[bytes] = []  # lines for which there was no room

    def found(self, run_dir: Path) -> Path | None:
        """The file, if there is one with lines.

        Raises:
            LogFileError: it cannot be read.
        """
        path = run_dir / "log.jsonl"
        return path if first_bytes(path, 1) else None

    def start(self, run_dir: Path | None, config: Mapping[str, Any], step: int) -> None:
        """Open the file, and drop from it what is later than the checkpoint, or than ``step``.

        Raises:
            LogError: without a run directory.
            LogFileError: the file cannot be written, or is no log.
        """
        path = inside(run_dir, "log.jsonl", "JSONL")
        keep = _kept(path, step, self._checkpointed)
        if keep < (self._checkpointed or 0):
            warnings.warn(
                f"{path} has lost lines since the checkpoint: {keep} of {self._checkpointed} bytes are left. "
                "It is continued behind them.",
                stacklevel=2,
            )
        self._checkpointed, self._waiting = None, []
        self._file = Appended(path, keep)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Write a line.

        Raises:
            LogError: a value is not a number, or ``start`` was not called.
            LogFileError: the disk is full, for example. The file holds whole lines only; this one is kept, and
                written before the next one.
        """
        if self._file is None or self._file.closed:
            raise started(self)
        line = {"step": step} | {name: _legal(value) for name, value in numbers(values).items()}
        self._waiting.append(json.dumps(line, allow_nan=False).encode() + b"\n")
        write_in_turn(self._waiting, self._file.append)

    def finish(self) -> None:
        """Close the file.

        Raises:
            LogFileError: there is still no room for the last lines.
        """
        if self._file is None or self._file.closed:
            return
        try:
            write_in_turn(self._waiting, self._file.append)
        finally:
            self._file.close()

    def state_dict(self) -> dict[str, int]:
        """How long the file is, now that all of it is on the disk.

        Raises:
            LogFileError: it is not.
        """
        if self._file is None:
            return {"bytes": 0}
        if not self._file.closed:
            write_in_turn(self._waiting, self._file.append)
        self._file.sync()
        return {"bytes": self._file.size}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """The next ``start`` keeps as much of the file as there was at ``state``."""
        self._checkpointed = state["bytes"]


def _legal(value: int | float) -> int | float | str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return value


def _kept(path: Path, step: int, checkpointed: int | None) -> int:
    """How many bytes stay: whole lines up to the checkpoint, if there is one, else up to ``step``."""
    end = 0
    if step == 0 and checkpointed is None:
        return end
    try:
        with path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                if _step(line, path) > step if checkpointed is None else end + len(line) > checkpointed:
                    break
                end += len(line)
    except FileNotFoundError:
        return 0
    except LogFileError:
        raise
    except OSError as error:
        raise unreadable(path, error) from error
    return end


def _step(line: bytes, path: Path) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, TypeError, KeyError) as error:
        raise LogFileError(
            f"{path} has a line without a step: {line[:80]!r}. Move the file away, and start again."
        ) from error
