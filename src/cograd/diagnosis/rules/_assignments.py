"""Where a script gives one thing a second name."""

from __future__ import annotations

import ast
import linecache

from cograd.tracing import Site


def assignment(file: str, target: str, source: str) -> Site | None:
    """The line ``target = source``; names are compared without the object that they are attributes of."""
    try:
        tree = ast.parse("".join(linecache.getlines(file)))
    except SyntaxError:
        return None
    for node in ast.walk(tree):
        if not isinstance(node, ast.Assign):
            continue
        for left, right in _pairs(node):
            if _last(left) == target.rpartition(".")[2] and _last(right) == source.rpartition(".")[2]:
                return Site(file, node.lineno, linecache.getline(file, node.lineno).strip(), ast.unparse(node), "")
    return None


def _pairs(node: ast.Assign) -> list[tuple[ast.expr, ast.expr]]:
    if len(node.targets) > 1:  # a = b = value
        return [(a, b) for a in node.targets for b in node.targets if a is not b]
    target, value = node.targets[0], node.value
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
        return list(zip(target.elts, value.elts, strict=False))
    return [(target, value)]


def _last(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
