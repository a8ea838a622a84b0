"""One checkpoint as a file: its name holds its hash, so that it can be told whether it is still what was written."""

from __future__ import annotations

import hashlib
import pickle
import re
from collections.abc import Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import torch
from torch.utils.serialization import config

from cograd.errors import CheckpointError

FORMAT = 1
NAME = re.compile(r"(step|best)-(\d{8,})-([0-9a-f]{16})\.pt")

_CHUNK = 2**18  # bytes that stay in the processor's cache from being hashed to being written
_UNLOADABLE = (RuntimeError, ValueError, TypeError, KeyError, AttributeError, ImportError, EOFError)


class UnusableError(Exception):
    """Why a file cannot be trusted."""


class CheckpointFile(NamedTuple):
    """The name of a checkpoint. They sort by step; the newest is the last."""

    step: int
    kind: str
    digest: str
    path: Path


class _Hashing:
    """A file for ``torch.save`` that hashes what passes.

    torch's writer would turn an error into one of its own, and a keyboard interrupt too. So the first is kept for
    later, and what follows it is dropped.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.hash = hashlib.sha256()
        self.error: BaseException | None = None

    def write(self, data: memoryview) -> int:
        try:
            for start in range(0, len(data) if self.error is None else 0, _CHUNK):
                chunk = data[start : start + _CHUNK]
                self.hash.update(chunk)
                self.file.write(chunk)
        except BaseException as error:
            self.error = error
        return len(data)

    def flush(self) -> None:
        """``torch.save`` calls it; the file is flushed when all is written."""


def write(content: Mapping[str, Any], file: BinaryIO) -> str:
    """Write ``content``; the first 16 digits of the file's SHA-256."""
    sink = _Hashing(file)
    # The hash sees more than the sums that a zip has by itself, and both together take half as long again.
    with config.patch("save.compute_crc32", False):  # type: ignore[attr-defined]
        torch.save(content, cast("Any", sink))
    if sink.error is not None:
        raise sink.error
    return sink.hash.hexdigest()[:16]


def _digest(stream: BufferedReader) -> str:
    return hashlib.file_digest(stream, "sha256").hexdigest()[:16]


def intact(file: CheckpointFile) -> bool:
    """Whether it is there, and is what was written."""
    try:
        with file.path.open("rb") as stream:
            return _digest(stream) == file.digest
    except OSError:  # to the same effect
        return False


def read(file: CheckpointFile) -> dict[str, Any]:
    """Its content, on the CPU.

    Raises:
        FileNotFoundError: it is gone.
        UnusableError: it is not what was written, or the disk does not give it.
        CheckpointError: it is of another version.
    """
    try:
        with file.path.open("rb") as stream:
            if (found := _digest(stream)) != file.digest:
                raise UnusableError(f"is damaged or cut short (its checksum is {found})")
            stream.seek(0)
            content = torch.load(stream, map_location="cpu", weights_only=True, mmap=False)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UnusableError(f"cannot be read ({error.strerror})") from error
    except (*_UNLOADABLE, pickle.UnpicklingError) as error:
        raise CheckpointError(
            f"{file.path} is as it was written, but torch {torch.__version__} cannot load it ({error}). Use the "
            "version that wrote it."
        ) from error
    version = content.get("format") if isinstance(content, dict) else type(content).__name__
    if version != FORMAT:
        raise CheckpointError(
            f"{file.path} has checkpoint format {version!r}; this version of cograd reads {FORMAT}. Use the one that "
            "wrote it, or choose another run_dir."
        )
    return dict(content)
