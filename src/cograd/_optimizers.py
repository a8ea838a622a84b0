"""The optimizers by name: as they were given, made by factories, several for one model."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from cograd._arity import misfit
from cograd._models import trainable
from cograd.errors import OptimizerError, report, shown, unknown

Factory = Callable[[Any], Optimizer | Sequence[Optimizer]]  # takes a list of parameters, by whatever type it calls them
Optimizers = Mapping[str, Optimizer | Sequence[Optimizer] | Factory] | Optimizer | Factory

REST = "*"  # the key of what is not named

_FRAMEWORKS = {"lightning", "pytorch_lightning", "lightning_fabric", "accelerate"}


def build_optimizers(optimizers: Any, models: Mapping[str, nn.Module]) -> dict[str, Optimizer]:
    """Name -> optimizer. Those of a list are ``name[0]``, ``name[1]``; what a factory makes has the name of its model.

    Args:
        optimizers: as in :class:`cograd.Joint`.
        models: those that factories are called for.

    Raises:
        OptimizerError: lists every entry that does not hold.
    """
    named = True
    if isinstance(optimizers, Mapping):
        entries = dict(optimizers)
        if strange := [name for name in entries if not isinstance(name, str)]:
            raise OptimizerError(f"The name of an optimizer must be a string; found {shown(strange[0])}.")
    elif _is_optimizer(optimizers):
        entries = {"optimizer": optimizers}
    elif _is_factory(optimizers):
        entries, named = {REST: optimizers}, False
    else:
        raise OptimizerError(f"optimizers must be {_KINDS}; found {_found(optimizers)}.")
    built: dict[str, Optimizer] = {}
    problems: list[str] = []
    for name, made in _made(entries, models, problems, named):
        if name in built:
            problems.append(
                f"Two optimizers have the name {name!r}. Give several for one model as a list, as in "
                f"optimizers={{{name!r}: [first, second]}}."
            )
        elif twin := next((key for key, other in built.items() if other is made), None):
            problems.append(f"optimizers[{name!r}] is the same object as optimizers[{twin!r}]. Keep one of the names.")
        else:
            built[name] = made
    problems += [
        f"optimizers[{name!r}] is the wrapper {type(optimizer).__name__} that {framework} puts around "
        f"{type(optimizer.optimizer).__name__}: steps and states may not reach the optimizer inside. Pass the "
        "optimizer as it was before, or its .optimizer."
        for name, optimizer in dict[str, Any](built).items()
        if (framework := _wrapped_by(optimizer))
    ]
    if not problems and not built:
        problems.append(f"optimizers holds none. It must be {_KINDS}.")
    if problems:
        raise OptimizerError(report(problems))
    return built


_KINDS = (
    "an optimizer, a factory such as partial(Adam, lr=1e-3), or a mapping from names to optimizers, lists of them, or "
    "factories for models"
)


def optimizers_named(name: str, optimizers: Collection[str]) -> list[str]:
    """The optimizers that ``name`` means: that one, or all of the list that was given under it.

    >>> optimizers_named("net", ["net[0]", "net[1]", "head"]), optimizers_named("net[1]", ["net[0]", "net[1]"])
    (['net[0]', 'net[1]'], ['net[1]'])
    """
    if name in optimizers or not isinstance(name, str):
        return [name] if name in optimizers else []
    return [key for key in optimizers if re.fullmatch(rf"{re.escape(str(name))}\[\d+\]", key)]


def _made(
    entries: Mapping[str, Any], models: Mapping[str, nn.Module], problems: list[str], named: bool
) -> Iterable[tuple[str, Optimizer]]:
    """The optimizers of each entry, under their names. ``named`` if the user gave a mapping."""
    ready = [o for entry in entries.values() for o in _listed(entry) if _is_optimizer(o)]
    taken = {id(p) for optimizer in ready for p in members(optimizer)}
    for name, entry in entries.items():
        where = f"optimizers[{name!r}]" if named else "optimizers"
        if not _is_factory(entry):
            if name == REST:
                problems.append(
                    f"{where} is for the models that no other entry names, each of which gets its own, so it must be a "
                    f"factory, such as partial(Adam, lr=1e-3); found {_found(entry)}."
                )
            else:
                yield from _named(name, entry, where, problems)
        elif name == REST:
            for model in models:
                if model not in entries and (rest := [p for p in trainable(models[model]) if id(p) not in taken]):
                    yield from _called(model, entry, rest, where, problems)
        elif name not in models:
            problems.append(f"{where} is a factory, and names no model. {unknown('models', name, models)}")
        elif not (parameters := trainable(models[name])):
            problems.append(f"{where} is a factory, but {name!r} has no parameter that requires grad. Leave it out.")
        else:
            yield from _called(name, entry, parameters, where, problems)


def _called(
    model: str, factory: Any, parameters: list[Tensor], where: str, problems: list[str]
) -> Iterable[tuple[str, Optimizer]]:
    if problem := misfit(where, factory, "parameters"):
        problems.append(problem)
        return
    try:
        made = factory(parameters)
    except Exception as error:
        raise OptimizerError(
            f"{where} is a factory that fails on the parameters of {model!r} ({type(error).__name__}: {error}). It is "
            "given a list of them, and returns an optimizer or a list of optimizers."
        ) from error
    yield from _named(model, made, f"What {where} makes for {model!r}", problems)


def _named(name: str, entry: Any, where: str, problems: list[str]) -> Iterable[tuple[str, Optimizer]]:
    found = _listed(entry)
    strange = [o for o in found if not _is_optimizer(o)]
    if strange:
        problems.append(
            f"{where} must be a torch.optim.Optimizer or a list of them; found "
            f"{'in a list ' if isinstance(entry, list | tuple) else ''}{_found(strange[0])}."
        )
    elif isinstance(entry, list | tuple):
        if not entry:
            problems.append(f"{where} is an empty list. Give at least one optimizer.")
        yield from ((f"{name}[{i}]", optimizer) for i, optimizer in enumerate(found))
    else:
        yield name, entry


def _listed(entry: Any) -> list[Any]:
    return list(entry) if isinstance(entry, list | tuple) else [entry]


def _is_factory(entry: Any) -> bool:
    return callable(entry) and not _is_optimizer(entry) and not isinstance(entry, nn.Module)


def _found(value: Any) -> str:
    if isinstance(value, Tensor | nn.Module) or inspect.isgenerator(value):
        return f"{shown(value)} (an optimizer is made of parameters: torch.optim.Adam(net.parameters()))"
    return shown(value)


def members(optimizer: Optimizer) -> list[Tensor]:
    """The parameters of all groups, those that were added later too."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def only_with_gradient(optimizer: Optimizer) -> AbstractContextManager[None]:
    """Let ``optimizer`` see only the parameters that have a gradient, while it steps.

    torch's own optimizers pass over a missing gradient. Others fill it with zeros, and then decay what is frozen.
    """
    if type(optimizer).__module__.startswith("torch.optim."):
        return nullcontext()
    return _only_with_gradient(optimizer)


@contextmanager
def _only_with_gradient(optimizer: Optimizer) -> Iterator[None]:
    groups = list(optimizer.param_groups)
    whole = [group["params"] for group in groups]
    try:
        for group, parameters in zip(groups, whole, strict=True):
            group["params"] = [p for p in parameters if p.grad is not None]
        # in place: an optimizer around another one shares the list with it
        optimizer.param_groups[:] = [group for group in groups if group["params"]]
        yield
    finally:
        for group, parameters in zip(groups, whole, strict=True):
            group["params"] = parameters
        optimizer.param_groups[:] = groups


def _is_optimizer(value: Any) -> bool:
    return isinstance(value, Optimizer) or (hasattr(value, "param_groups") and not isinstance(value, type))


def _wrapped_by(optimizer: Any) -> str | None:
    """The package of the framework whose wrapper this is. An optimizer may well have an ``optimizer`` of its own."""
    if not _is_optimizer(optimizer) or not _is_optimizer(getattr(optimizer, "optimizer", None)):
        return None
    packages = [kind.__module__.partition(".")[0] for kind in type(optimizer).__mro__]
    return next((package for package in packages if package in _FRAMEWORKS), None)
