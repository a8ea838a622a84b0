"""What the tests of the command line share: recipes that train for one epoch, and what was printed."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from cograd.cli import _trial


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    """No setting of the machine that runs the tests changes what is printed."""
    for name in ("COLUMNS", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def change(monkeypatch):
    """``change(name, function)``: every build of a recipe passes through ``function(name, recipe)``."""
    real = _trial.build

    def change(function):
        monkeypatch.setattr(_trial, "build", lambda name: function(name, real(name)))

    return change


@pytest.fixture
def quick(change):
    """``quick(score=..., ...)``: recipes train for one epoch; fields of the recipe are replaced."""

    def quick(**fields):
        change(lambda _, recipe: replace(recipe, epochs=1, **fields))

    return quick


@pytest.fixture
def shell():
    """``shell(*words)``: run ``python`` in a process of its own, as a user's shell would."""

    def shell(*words):
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.run(
            [sys.executable, *map(str, words)], capture_output=True, text=True, env=environment, check=False, timeout=60
        )

    return shell
