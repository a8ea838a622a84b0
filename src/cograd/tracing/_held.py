"""Containers of the script that hold tensors with graphs."""

from __future__ import annotations

import ast
import linecache
from collections import deque
from collections.abc import Iterator
from types import FrameType

from torch import Tensor

from cograd.tracing._nodes import node_of
from cograd.tracing._sites import NOWHERE, Site

_MANY = 10_000


def holding(frames: list[FrameType]) -> Iterator[tuple[str, int, Site]]:
    """Name, number of tensors with a graph, and the line that adds to it, for each such container."""
    seen = set()
    for frame in frames:
        for name, thing in [*frame.f_locals.items(), *frame.f_globals.items()]:
            if id(thing) in seen or name.startswith("__"):
                continue
            seen.add(id(thing))
            found = [(name, thing)] if isinstance(thing, (list, deque, dict)) else _attributes(name, thing)
            for path, inner in found:
                count = _count(inner)
                if count > 1:
                    yield path, count, _adds(frame.f_code.co_filename, path.rpartition(".")[2])


def _attributes(name: str, thing: object) -> list[tuple[str, object]]:
    members = getattr(thing, "__dict__", None)
    if name != "self" or not isinstance(members, dict):
        return []
    return [(f"self.{key}", inner) for key, inner in members.items() if isinstance(inner, (list, deque, dict))]


def _count(thing: object) -> int:
    things = list(thing.values()) if isinstance(thing, dict) else thing
    if not isinstance(things, (list, deque)) or len(things) > _MANY:
        return 0
    nested = [inner for one in things for inner in (one if isinstance(one, list) else (one,))]
    return sum(isinstance(one, Tensor) and node_of(one) is not None for one in nested[:_MANY])


def _adds(file: str, name: str) -> Site:
    """The line that appends to ``name``."""
    try:
        tree = ast.parse("".join(linecache.getlines(file)))
    except SyntaxError:
        return NOWHERE
    for node in ast.walk(tree):
        grown = _grown(node)
        while isinstance(grown, ast.Subscript):
            grown = grown.value
        if grown is not None and ast.unparse(grown).rpartition(".")[2] == name:
            line = getattr(node, "lineno", 0)
            return Site(file, line, linecache.getline(file, line).strip(), ast.unparse(node), "")
    return NOWHERE


def _grown(node: ast.AST) -> ast.expr | None:
    """What this node of a syntax tree adds to."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return node.func.value if node.func.attr in _ADDING else None
    if isinstance(node, ast.AugAssign):
        return node.target
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript):
        return node.targets[0].value
    return None


_ADDING = frozenset({"append", "extend", "appendleft", "add", "insert"})
