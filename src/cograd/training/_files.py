"""Files that appear whole or not at all, whatever is killed or pulled out while they are written."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TypeVar

T = TypeVar("T")

_UNFINISHED = re.compile(r"\..+\.\d+\.tmp")
_REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "Free some space, or choose another place."),
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), "Make it writable, or choose another place."),
    errno.EFBIG: "Files may not become that large here: raise the limit (ulimit -f), or choose another place.",
    **dict.fromkeys((errno.ENOTDIR, errno.EEXIST), "A file is in its place: choose another place."),
    errno.ENOENT: "Make the folder first, or choose another place.",
}


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """``write(file)`` to what becomes ``path`` once all of it is on the disk; until then ``path`` is as it was."""
    with unfinished(path) as part:
        write_durably(part, write)
        publish(part, path)


@contextmanager
def unfinished(path: Path) -> Iterator[Path]:
    """The name of a temporary file beside ``path``. What is left of it at the end is removed."""
    part = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield part
    finally:
        with suppress(OSError):  # it may hide no other error; what stays goes with remove_leftovers
            part.unlink(missing_ok=True)


def write_durably(path: Path, write: Callable[[BinaryIO], T]) -> T:
    """``write(file)``, and wait until the disk has it."""
    with path.open("wb") as file:
        result = write(file)
        file.flush()
        os.fsync(file.fileno())
    return result


def publish(part: Path, path: Path) -> None:
    """Give a complete file its name, in place of what had it, and wait until the disk has that."""
    os.replace(part, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Wait until the disk has the names in ``folder``."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems sync no folders
            raise
    finally:
        os.close(descriptor)


def publish_again(part: Path, path: Path) -> None:
    """Give a complete file a second name, which lives on when the first is removed."""
    with unfinished(path) as second:
        try:
            os.link(part, second)
        except OSError:  # not every file system has links
            with part.open("rb") as source:
                write_durably(second, lambda file: shutil.copyfileobj(source, file))
        publish(second, path)


def remove_leftovers(folder: Path) -> None:
    """Remove what killed writes left in ``folder``. Nobody else may be writing there."""
    for path in folder.iterdir():
        if _UNFINISHED.fullmatch(path.name):
            path.unlink()


def reason(error: OSError) -> str:
    """What failed, and what to do about it."""
    remedy = _REMEDIES.get(error.errno or 0, "Look after the disk, or choose another place.")
    return f"{error.strerror or error}. {remedy}"
