"""The door of every logger: names with numbers, and the packages that it needs."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from numbers import Integral
from pathlib import Path
from typing import Any

from cograd.errors import LogError, MissingPackageError, report, shown


def numbers(values: Mapping[str, Any]) -> dict[str, int | float]:
    """``values`` as plain numbers, or every reason why some are none."""
    found: dict[str, int | float] = {}
    problems: list[str] = []
    for name, value in values.items():
        if not isinstance(name, str) or name == "step":
            problems.append(f"{name!r} cannot be the name of a value: use a string other than 'step', which is taken.")
            continue
        try:
            found[name] = _number(value)
        except (TypeError, ValueError, RuntimeError):
            problems.append(f"values[{name!r}] must be a single number, found {_described(value)}. Log a number of it.")
    if problems:
        raise LogError(report(problems))
    return found


def _number(value: Any) -> int | float:
    if isinstance(value, str | bytes):
        raise TypeError(value)
    return int(value) if isinstance(value, Integral) else float(value)


def _described(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return f"{type(value).__name__} {value!r}" if shape is None else f"{type(value).__name__} of shape {tuple(shape)}"


def inside(run_dir: Path | None, name: str, logger: str) -> Path:
    """The place of that name in the run directory."""
    if run_dir is None:
        raise LogError(
            f'{logger} writes {name} into the run directory, and there is none. Give one: fit(..., run_dir="runs/one").'
        )
    return run_dir / name


def text(logger: object, name: str, value: Any) -> str | None:
    """``value`` if it can be the ``name`` of something, or None.

    Raises:
        LogError: it is neither.
    """
    if not isinstance(value, str | None) or value == "":
        raise LogError(f"{type(logger).__name__}({name}=...) must be text, or None; found {shown(value)}.")
    return value


def started(logger: object) -> LogError:
    """What to raise where values come before ``start``."""
    return LogError(f"{type(logger).__name__}.log needs a started logger. Call start(run_dir, config, step) first.")


def require(package: str, logger: object) -> None:
    """Complain before anything is trained, not at the first value."""
    if importlib.util.find_spec(package) is None:
        raise MissingPackageError(
            f"{type(logger).__name__} needs the package {package}, which is not installed. "
            'Type: pip install "cograd[loggers]"',
            package,
        )
