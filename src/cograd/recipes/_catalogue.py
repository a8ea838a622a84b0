"""Which recipes there are, and how to build one by its name."""

from __future__ import annotations

import pkgutil
from importlib import import_module
from pathlib import Path
from typing import Any

from cograd.errors import RecipeError, unknown
from cograd.recipes._recipe import Recipe

_HERE = Path(__file__).parent


def names() -> list[str]:
    """The names of all recipes, sorted: the public modules of ``cograd.recipes``.

    >>> "gan" in names()
    True
    """
    return sorted(module.name for module in pkgutil.iter_modules([str(_HERE)]) if not module.name.startswith("_"))


def build(name: str, **options: Any) -> Recipe:
    """The recipe ``name``, ready to train. The same seed builds the same one.

    Args:
        name: one of :func:`names`.
        options: what the recipe's own ``build`` takes; each takes ``seed``.

    Raises:
        RecipeError: there is no such recipe. Names those that there are.

    >>> build("fusion", seed=1).trivial
    'always benign'
    """
    known = names()
    if name not in known:
        raise RecipeError(f"There is no recipe {name!r}. {unknown('recipes', name, known)}")
    recipe: Recipe = import_module(f"cograd.recipes.{name}").build(**options)
    return recipe
