"""Parameters and optimizers in the names of the script."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cograd.tracing import Log


def listed(names: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def models(log: Log, parameters: Iterable[int]) -> str:
    """The models that these parameters belong to; a parameter that belongs to none by its own name."""
    found = {log.parameters[p].model or log.parameters[p].name for p in parameters if p in log.parameters}
    names = sorted(name for name in found if name)
    if not names:
        return "a model"
    return listed([*names[:3], f"{len(names) - 3} more"] if len(names) > 4 else names)


def parameter(log: Log, number: int) -> str:
    """The name of one parameter, or its shape if it has no name."""
    known = log.parameters.get(number)
    if known is None:
        return "a parameter"
    return known.name or f"a parameter of shape {list(known.shape)} made at line {known.made.line}"


def optimizer(log: Log, number: int) -> str:
    """The name of an optimizer."""
    known = log.optimizers.get(number)
    return known.name if known else "an optimizer"
