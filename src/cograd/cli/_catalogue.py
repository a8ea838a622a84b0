"""Recipes as a user sees them: a name, a line, a file."""

from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path

from cograd import recipes
from cograd.errors import RecipeError, report, unknown


def check(names: list[str]) -> list[str]:
    """``names`` without repetitions, all recipes if there are none.

    Raises:
        RecipeError: some of them do not exist. The message names each, with the nearest one that does.
    """
    known = recipes.names()
    wrong = [f"There is no recipe {name!r}. {unknown('recipes', name, known)}" for name in names if name not in known]
    if wrong:
        raise RecipeError(report(wrong))
    return list(dict.fromkeys(names)) or known


def path(name: str) -> Path:
    """Where the recipe lies. It is not imported, so its dependencies need not be installed."""
    check([name])
    spec = find_spec(f"cograd.recipes.{name}")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin)


def summary(name: str) -> str:
    """The first line of the recipe's docstring."""
    text = ast.get_docstring(ast.parse(path(name).read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0]


def print_list(names: list[str]) -> None:
    """One line per recipe: its name and what it is."""
    width = max(map(len, names))
    for name in names:
        print(f"{name:{width}}  {summary(name)}")
