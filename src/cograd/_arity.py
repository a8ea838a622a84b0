"""Can a function be called as it is going to be? Asked before it is called, so that the answer is in words."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from functools import partial
from inspect import Parameter
from typing import Any

from torch import nn

from cograd.errors import shown

_POSITIONAL = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
_STARS: Mapping[Any, str] = {Parameter.VAR_POSITIONAL: "*", Parameter.VAR_KEYWORD: "**"}


def misfit(what: str, function: Any, *arguments: str) -> str:
    """Why ``function`` cannot be called with so many arguments by position; empty if it can, or if nobody can know.

    Args:
        what: the keyword or the entry that holds the function.
        function: anything.
        arguments: what it is going to be given, by the names that help to write it.

    >>> misfit("losses", lambda models, batch: {}, "models", "batch")
    ''
    >>> print(misfit("losses", lambda batch: {}, "models", "batch"))
    losses must be a function losses(models, batch); found <lambda>(batch). Let it take 2 arguments: models, batch.
    >>> print(misfit("schedulers", torch.optim.lr_scheduler.ExponentialLR, "optimizer"))
    schedulers must be a function schedulers(optimizer); found ExponentialLR(optimizer, gamma, last_epoch=...).
    Bind the rest: functools.partial(ExponentialLR, gamma=...).
    """
    call = f"{what if what.isidentifier() else 'f'}({', '.join(arguments)})"
    if not callable(function):
        return f"{what} must be a function {call}; found {shown(function)}."
    parameters = _parameters(function)
    if parameters is None:
        return ""
    positional = [p for p in parameters if p.kind in _POSITIONAL]
    extra = positional[len(arguments) :] + [p for p in parameters if p.kind is Parameter.KEYWORD_ONLY]
    unbound = [p.name for p in extra if p.default is Parameter.empty]
    takes_any = any(p.kind is Parameter.VAR_POSITIONAL for p in parameters)
    if not unbound and (takes_any or len(positional) >= len(arguments)):
        return ""
    name = _name(function)
    if isinstance(function, type) and unbound:
        remedy = f"Bind the rest: functools.partial({name}, {', '.join(f'{p}=...' for p in unbound)})."
    else:
        remedy = f"Let it take {_counted(arguments)}."
    return f"{what} must be a function {call}; found {name}({_written(parameters)}). {remedy}"


def _counted(arguments: Sequence[str]) -> str:
    if not arguments:
        return "no arguments"
    return f"{len(arguments)} argument{'s' if len(arguments) > 1 else ''}: {', '.join(arguments)}"


def _parameters(function: Any) -> list[Parameter] | None:
    """None where Python cannot tell, as for many functions written in C."""
    called = function.forward if isinstance(function, nn.Module) else function
    try:
        return list(inspect.signature(called).parameters.values())
    except (TypeError, ValueError):
        return None


def _written(parameters: Sequence[Parameter]) -> str:
    """``models, batch, *, flag=...``: without the values, which may be long."""
    text = []
    for p, before in zip(parameters, (None, *parameters), strict=False):
        if p.kind is Parameter.KEYWORD_ONLY and (before is None or before.kind in _POSITIONAL):
            text.append("*")
        stars = _STARS.get(p.kind, "")
        text.append(f"{stars}{p.name}{'' if p.default is Parameter.empty else '=...'}")
    return ", ".join(text)


def _name(function: Any) -> str:
    while isinstance(function, partial):
        function = function.func
    return getattr(function, "__name__", type(function).__name__)
