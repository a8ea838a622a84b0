"""In which variable a value ends, followed out of the functions that return it."""

from __future__ import annotations

import ast
import linecache
from collections.abc import Iterator
from functools import cache

from cograd.tracing._sites import Site, statement_at
from cograd.tracing._values import Value

_Function = ast.FunctionDef | ast.AsyncFunctionDef


def variable(value: Value) -> tuple[Site, str]:
    """The variable that holds ``value``, and the line that assigns it; an empty name if there is none."""
    site, name = value.site, value.site.target
    for caller in value.callers:
        place = _returned(site, name)
        if place is None:
            break
        site, name = caller, _target(caller, place)
    return site, name


def _returned(site: Site, name: str) -> int | None:
    """At which place of a tuple a function returns what it computes at ``site``; -1 if it is all that it returns."""
    statement = statement_at(site)
    if isinstance(statement, ast.Return):
        return _place(statement.value, site.text)
    if name:
        return next((p for r in _returns(site) if (p := _place(r.value, name)) is not None), None)
    return None


def _place(value: ast.expr | None, text: str) -> int | None:
    wanted = _plain(text)
    parts = value.elts if isinstance(value, ast.Tuple) else [value]
    found = [i for i, part in enumerate(parts) if part is not None and ast.unparse(part) == wanted]
    if not found:
        return None
    return found[0] if isinstance(value, ast.Tuple) else -1


def _plain(text: str) -> str:
    try:
        return ast.unparse(ast.parse(text, mode="eval"))
    except SyntaxError:
        return text


def _target(site: Site, place: int) -> str:
    """The variable that gets this part of what the call at ``site`` returns."""
    statement = statement_at(site)
    if not isinstance(statement, ast.Assign) or ast.unparse(statement.value) != _plain(site.text):
        return ""
    target = statement.targets[0]
    if place < 0 or not isinstance(target, ast.Tuple):
        return site.target
    within = place < len(target.elts) and not any(isinstance(t, ast.Starred) for t in target.elts)
    return ast.unparse(target.elts[place]) if within else ""


def _returns(site: Site) -> Iterator[ast.Return]:
    """The return statements of the function around ``site``."""
    around = [f for f in _functions(site.file) if f.lineno <= site.line <= (f.end_lineno or 0)]
    for node in ast.walk(around[-1]) if around else ():
        if isinstance(node, ast.Return):
            yield node


@cache
def _functions(file: str) -> list[_Function]:
    try:
        tree = ast.parse("".join(linecache.getlines(file)))
    except SyntaxError:
        return []
    found = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    return sorted(found, key=lambda f: f.lineno)
