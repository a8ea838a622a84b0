"""Replace functions for a while."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

Around = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]


class Patches:
    """Wraps attributes of modules and classes, and puts back what was there.

    A wrapped function only passes on its arguments in a process that was forked, and where it is called by itself.
    """

    def __init__(self) -> None:
        self._undo = ExitStack()
        self._pid = os.getpid()

    def wrap(self, owner: Any, name: str, around: Around) -> None:
        """Let ``around(original, args, kwargs)`` run in place of ``owner.name``."""
        original = getattr(owner, name)
        pid, inside = self._pid, threading.local()

        @functools.wraps(original)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if os.getpid() != pid or getattr(inside, "yes", False):
                return original(*args, **kwargs)
            inside.yes = True
            try:
                return around(original, args, kwargs)
            finally:
                inside.yes = False

        setattr(owner, name, wrapped)
        self._undo.callback(setattr, owner, name, original)

    def undo_with(self, undo: Callable[[], Any]) -> None:
        """Also call this when everything is put back."""
        self._undo.callback(undo)

    def close(self) -> None:
        """Put everything back."""
        self._undo.close()
