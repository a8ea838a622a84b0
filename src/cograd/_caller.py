"""Caller: where in the user's code a warning belongs."""

from __future__ import annotations

import sys

_BETWEEN = ("cograd.", "torch.utils._contextlib")  # the latter: torch.no_grad as a decorator


def level_of_caller() -> int:
    """How far above the calling function the code is that called cograd: the ``stacklevel`` of its warning."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(_BETWEEN):
        frame, level = frame.f_back, level + 1
    return level
