"""Where a module puts things in a plain list or dict."""

from __future__ import annotations

import ast
import linecache
from collections.abc import Iterator
from functools import cache
from types import FunctionType

from cograd.tracing._sites import Site, is_user_file

_ADDING = frozenset({"append", "extend", "appendleft", "add", "insert", "update", "setdefault"})
_EMPTY = frozenset({"[]", "{}", "()", "list()", "dict()", "tuple()", "set()"})


def put(owner: type, attribute: str, made: Site) -> Site:
    """The line of a class that puts something in ``attribute``; ``made`` if that is in the class or there is none."""
    first = None
    for kind in owner.__mro__:
        file, definition = _definition(kind)
        if definition is None:
            continue
        if file == made.file and definition.lineno <= made.line <= (definition.end_lineno or 0):
            return made
        first = first or next(_puts(definition, file, attribute), None)
    return first or made


@cache
def _definition(kind: type) -> tuple[str, ast.ClassDef | None]:
    methods = [m for m in vars(kind).values() if isinstance(m, FunctionType)]
    file = methods[0].__code__.co_filename if methods else ""  # a script is no longer the module __main__ when it ended
    if not methods or not is_user_file(file):
        return "", None
    try:
        tree = ast.parse("".join(linecache.getlines(file)))
    except SyntaxError:
        return "", None
    return file, next((n for n in ast.walk(tree) if isinstance(n, ast.ClassDef) and n.name == kind.__name__), None)


def _puts(definition: ast.ClassDef, file: str, attribute: str) -> Iterator[Site]:
    for function in definition.body:
        for node in ast.walk(function):
            if isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign, ast.Call)) and _fills(node, attribute):
                source = linecache.getline(file, node.lineno).strip()
                yield Site(file, node.lineno, source, ast.unparse(node), getattr(function, "name", ""))


def _fills(node: ast.Assign | ast.AnnAssign | ast.AugAssign | ast.Call, attribute: str) -> bool:
    if isinstance(node, ast.Call):
        method = node.func
        return isinstance(method, ast.Attribute) and method.attr in _ADDING and _is(method.value, attribute)
    if node.value is None or ast.unparse(node.value) in _EMPTY:
        return False
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return any(_is(target, attribute) for target in targets)


def _is(node: ast.expr, attribute: str) -> bool:
    while isinstance(node, ast.Subscript):
        node = node.value
    return isinstance(node, ast.Attribute) and node.attr == attribute
