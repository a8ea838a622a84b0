"""A table with a row for each call."""

from __future__ import annotations

import csv
import io
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cograd.errors import LogFileError
from cograd.training._files import remove_leftovers, write_atomically
from cograd.training.loggers._appended import Appended, first_bytes, unreadable, unwritable, write_in_turn
from cograd.training.loggers._numbers import inside, numbers, started


class CSV:
    """Writes ``log.csv`` into the run directory: ``step`` first, then a column for each name.

    A value that was not logged is an empty cell; NaN and infinity are ``nan``, ``inf`` and ``-inf``. A
    name that is new adds a column, for which the file is written once more, and replaced as a whole.
    Values that come in several calls at one step are several rows. Each row is written at once, so a
    killed run loses none. A run that continues drops the rows after its checkpoint, or, without a
    loaded state, those of later steps; columns that only they needed go too. ``config`` is not written.

    >>> import pathlib, tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> logger = cograd.training.loggers.CSV()
    >>> logger.start(pathlib.Path(folder.name), {}, step=0)
    >>> logger.log({"loss/digit": 0.5}, step=50)
    >>> logger.log({"val/digit": 0.25}, step=50)
    >>> logger.finish()
    >>> print(pathlib.Path(folder.name, "log.csv").read_text(), end="")
    step,loss/digit,val/digit
    50,0.5,
    50,,0.25
    >>> folder.cleanup()
    """

    def __init__(self) -> None:
        self._file: Appended | None = None
        self._path = Path()
        self._columns: list[str] = []
        self._rows = 0
        self._checkpointed: int | None = None
        self._waiting: list[dict[str, int | float]] = []  # rows for which there was no room

    def found(self, run_dir: Path) -> Path | None:
        """The file, if there is one with rows.

        Raises:
            LogFileError: it cannot be read.
        """
        path, empty = run_dir / "log.csv", _text([["step"]])
        return path if first_bytes(path, len(empty) + 1) not in (b"", empty) else None

    def start(self, run_dir: Path | None, config: Mapping[str, Any], step: int) -> None:
        """Open the file, and drop from it what is later than the checkpoint, or than ``step``.

        Raises:
            LogError: without a run directory.
            LogFileError: the file cannot be written, or is no log.
        """
        self._path = inside(run_dir, "log.csv", "CSV")
        self._tidy()
        fresh = step == 0 and self._checkpointed is None
        columns, rows = ([], []) if fresh or not self._path.exists() else _read(self._path)
        if self._checkpointed is None:
            rows = [row for row in rows if int(row[0]) <= step]
        elif len(rows) < self._checkpointed:
            warnings.warn(
                f"{self._path} has lost rows since the checkpoint: {len(rows)} of {self._checkpointed} are left. "
                "It is continued behind them.",
                stacklevel=2,
            )
        rows = rows[: self._checkpointed]
        self._checkpointed, self._waiting = None, []
        used = [i for i, _ in enumerate(columns) if any(row[i] for row in rows)]
        self._write([columns[i] for i in used] or ["step"], [[row[i] for i in used] for row in rows])

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Write a row.

        Raises:
            LogError: a value is not a number, or ``start`` was not called.
            LogFileError: the disk is full, for example. The file holds whole rows only; this one is kept, and
                written before the next one.
        """
        if self._file is None or self._file.closed:
            raise started(self)
        self._waiting.append({"step": step} | numbers(values))
        write_in_turn(self._waiting, self._add)

    def _add(self, cells: Mapping[str, int | float]) -> None:
        assert self._file is not None
        new = [name for name in cells if name not in self._columns]
        row = [str(cells.get(name, "")) for name in [*self._columns, *new]]
        if not new:
            self._file.append(_text([row]))
            self._rows += 1
            return
        rows = [[*old, *[""] * len(new)] for old in _read(self._path)[1]]
        self._write([*self._columns, *new], [*rows, row])

    def finish(self) -> None:
        """Close the file.

        Raises:
            LogFileError: there is still no room for the last rows.
        """
        if self._file is None or self._file.closed:
            return
        try:
            write_in_turn(self._waiting, self._add)
        finally:
            self._file.close()

    def state_dict(self) -> dict[str, int]:
        """How many rows there are, now that all of them are on the disk.

        Raises:
            LogFileError: they are not.
        """
        if self._file is not None:
            if not self._file.closed:
                write_in_turn(self._waiting, self._add)
            self._file.sync()
        return {"rows": self._rows}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """The next ``start`` keeps as many rows as there were at ``state``."""
        self._checkpointed = state["rows"]

    def _tidy(self) -> None:
        try:
            remove_leftovers(self._path.parent)
        except OSError as error:
            raise unwritable(self._path, error) from error

    def _write(self, columns: list[str], rows: Sequence[Sequence[str]]) -> None:
        """The whole file, all of it or nothing."""
        text = _text([columns, *rows])
        try:
            write_atomically(self._path, lambda file: file.write(text))
        except OSError as error:
            raise unwritable(self._path, error) from error
        if self._file is not None:
            self._file.close()
        self._file, self._columns, self._rows = Appended(self._path, len(text)), columns, len(rows)


def _text(rows: Sequence[Sequence[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def _read(path: Path) -> tuple[list[str], list[list[str]]]:
    """The columns and the rows, without a torn last one."""
    try:
        whole, _, _ = path.read_bytes().rpartition(b"\n")
    except OSError as error:
        raise unreadable(path, error) from error
    try:
        columns, *rows = list(csv.reader(io.StringIO(whole.decode(), newline=""), strict=True)) or [["step"]]
    except (UnicodeDecodeError, csv.Error) as error:
        raise _no_log(path) from error
    if columns[:1] != ["step"] or any(len(row) != len(columns) or not row[0].isdecimal() for row in rows):
        raise _no_log(path)
    return columns, rows


def _no_log(path: Path) -> LogFileError:
    return LogFileError(f"{path} is not a table with a step in each row. Move the file away, and start again.")
