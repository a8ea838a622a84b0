"""Which call in the user's code runs the module that a parameter belongs to."""

from __future__ import annotations

import ast
import sys
from types import FrameType
from typing import Any

from torch import Tensor, nn

from cograd.tracing._sites import Site, frames_and_sites


def caller(parameter: Tensor) -> tuple[Site, str, nn.Module] | None:
    """The outermost call of a module that holds ``parameter``: where, what the script calls it, and the module."""
    found = None
    for frame, site in frames_and_sites(sys._getframe(1)):
        text, thing = _callee(frame, site)
        if isinstance(thing, nn.Module) and any(p is parameter for p in thing.parameters()):
            found = site, text, thing
    return found


def _callee(frame: FrameType, site: Site) -> tuple[str, Any]:
    """The module that a call runs, in a frame that is waiting for it; None if it runs another thing."""
    call = site.expression
    if not isinstance(call, ast.Call):
        return "", None
    path: list[str] = []
    at = call.func
    while isinstance(at, ast.Attribute):
        path.append(at.attr)
        at = at.value
    if not isinstance(at, ast.Name):
        return "", None
    thing = frame.f_locals.get(at.id, frame.f_globals.get(at.id))
    for name in reversed(path):
        held = vars(thing).get("_modules", {}) if isinstance(thing, nn.Module) else {}
        thing = held.get(name, getattr(thing, "__dict__", {}).get(name))
    return ast.unparse(call.func), thing
