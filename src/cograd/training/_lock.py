"""One process at a time in a folder."""

from __future__ import annotations

import errno
import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from cograd.errors import CheckpointError

_UNSUPPORTED = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)

_held: set[int] = set()  # descriptors of locked files


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes out of ``folder``. The kernel lets go when this process ends, however it ends.

    Raises:
        CheckpointError: another process is in there, or another run of this one.
        OSError: the lock's file cannot be written.
    """
    import fcntl  # does not exist everywhere; only runs with a folder need it

    _forget_in_children()
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.read(descriptor, 1000).decode(errors="replace") or "another process"
        os.close(descriptor)
        raise CheckpointError(
            f"{folder} is in use by {owner}, and two runs in one folder would overwrite each other. Wait for it, stop "
            "it, or choose another run_dir."
        ) from None
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            os.close(descriptor)
            raise
        warnings.warn(f"{folder} cannot be locked ({error.strerror}): start no second run in it.", stacklevel=2)
    _held.add(descriptor)
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield
    finally:
        if descriptor in _held:  # else this is a child, which has let go
            _held.remove(descriptor)
            os.close(descriptor)


@cache
def _forget_in_children() -> None:
    """A worker of a loader is a fork that shares the lock, and would hold it when its parent has been killed."""
    os.register_at_fork(after_in_child=_let_go)


def _let_go() -> None:
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()
