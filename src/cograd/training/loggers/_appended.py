"""A file that grows by whole lines."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from cograd.errors import LogFileError
from cograd.training._files import reason

T = TypeVar("T")


class Appended:
    """Of the file at ``path`` the first ``keep`` bytes stay; lines are written behind them, at once.

    A line that does not fit on the disk is taken back, so that the file holds whole lines only. Only
    a kill in the middle of a write leaves a part of one, as the last line.
    """

    def __init__(self, path: Path, keep: int) -> None:
        self._path = path
        self.size = keep
        try:
            self._file = path.open("ab", buffering=0)
            self._file.truncate(keep)
        except OSError as error:
            raise unwritable(path, error) from error

    @property
    def closed(self) -> bool:
        return self._file.closed

    def append(self, line: bytes) -> None:
        written = 0
        try:
            while written < len(line):
                written += self._file.write(line[written:])
        except BaseException as error:
            self._file.truncate(self.size)
            if isinstance(error, OSError):
                raise unwritable(self._path, error) from error
            raise
        self.size += written

    def sync(self) -> None:
        """Wait until all of it is on the disk: a checkpoint is about to count on it."""
        if self.closed:
            return
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise unwritable(self._path, error) from error

    def close(self) -> None:
        self._file.close()


def write_in_turn(waiting: list[T], write: Callable[[T], None]) -> None:
    """``write`` what waits, the first one first. What does not fit goes on waiting, and all that came after it."""
    while waiting:
        write(waiting[0])
        del waiting[0]


def first_bytes(path: Path, n: int) -> bytes:
    """At most ``n`` bytes of the file; none if there is no file."""
    try:
        with path.open("rb") as file:
            return file.read(n)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError) -> LogFileError:
    return LogFileError(
        f"The log {path} cannot be read: {error.strerror or error}. Move it, or choose another run_dir."
    )


def unwritable(path: Path, error: OSError) -> LogFileError:
    failure = LogFileError(f"{path} cannot be written; what was in it is whole: {reason(error)}")
    failure.errno = error.errno
    return failure
