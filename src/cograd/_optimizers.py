"""Who owns which parameter: every trainable one is in exactly one optimizer, and no stranger is."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from cograd._models import named_parameters, trainable
from cograd.errors import OptimizerError, report

Optimizers = Mapping[str, Optimizer] | Optimizer | Callable[[list[Tensor]], Optimizer]

_FRAMEWORKS = {"lightning", "pytorch_lightning", "lightning_fabric", "accelerate"}


def build_optimizers(optimizers: Any, models: Mapping[str, nn.Module]) -> dict[str, Optimizer]:
    """A mapping as it is, one optimizer under the name ``"optimizer"``, or a factory called per model.

    Raises:
        OptimizerError: something in it is not an optimizer, or the wrapper that a framework puts around one.
    """
    if isinstance(optimizers, Mapping):
        built = dict(optimizers)
    elif _is_optimizer(optimizers):
        built = {"optimizer": optimizers}
    elif callable(optimizers):
        built = {name: optimizers(params) for name, model in models.items() if (params := trainable(model))}
    else:
        built = {"optimizers": optimizers}
    problems = [
        f"optimizers[{name!r}] must be a torch.optim.Optimizer; found {type(optimizer).__name__}."
        + (" A factory is given for all models at once: optimizers=factory." if callable(optimizer) else "")
        for name, optimizer in built.items()
        if not _is_optimizer(optimizer)
    ]
    problems += [
        f"optimizers[{name!r}] is the wrapper {type(optimizer).__name__} that {framework} puts around "
        f"{type(optimizer.optimizer).__name__}: steps and states may not reach the optimizer inside. Pass the "
        "optimizer as it was before, or its .optimizer."
        for name, optimizer in built.items()
        if (framework := _wrapped_by(optimizer))
    ]
    if problems:
        raise OptimizerError(report(problems))
    return built


def check_ownership(models: Mapping[str, nn.Module], optimizers: Mapping[str, Optimizer]) -> None:
    """Every trainable parameter is in exactly one optimizer, and every optimizer's parameter in a model.

    Raises:
        OptimizerError: lists every model and optimizer for which that does not hold.
    """
    owners: dict[int, list[str]] = {}
    for name, optimizer in optimizers.items():
        for parameter in members(optimizer):
            owners.setdefault(id(parameter), []).append(name)

    known, problems = {}, []
    for model_name, model in models.items():
        orphans, twice = [], []
        for key, parameter in named_parameters(model):
            known[id(parameter)] = f"{model_name}.{key}"
            mine = owners.get(id(parameter), [])
            if not mine and parameter.requires_grad:
                orphans.append(f"{model_name}.{key}")
            elif len(mine) > 1:
                twice.append(f"{model_name}.{key} ({' and '.join(map(repr, mine))})")
        if orphans:
            problems.append(
                f"{_some(orphans)} of model {model_name!r} can be trained but is in no optimizer. Add it to one, or "
                "freeze it with requires_grad_(False)."
            )
        if twice:
            problems.append(f"{_some(twice)} is in more than one optimizer, so it would step twice. Keep it in one.")

    for name, optimizer in optimizers.items():
        strangers = [parameter for parameter in members(optimizer) if id(parameter) not in known]
        if strangers:
            shape = tuple(strangers[0].shape)
            twins = [
                f"{model_name}.{key}"
                for model_name, model in models.items()
                for key, parameter in named_parameters(model)
                if tuple(parameter.shape) == shape and id(parameter) not in owners
            ]
            copy = (
                f" It has the shape of {twins[0]}: was the model copied after the optimizer was made?" if twins else ""
            )
            problems.append(
                f"optimizers[{name!r}] holds {len(strangers)} parameter(s) of no model, the first of shape {shape}."
                f"{copy} Name its module as a model too, or make the optimizer from the models' parameters."
            )
    if problems:
        raise OptimizerError(report(problems))


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


def needs_closure(optimizer: Optimizer) -> bool:
    """Does ``optimizer.step`` evaluate the loss itself, as LBFGS does?"""
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    return closure is not None and closure.default is inspect.Parameter.empty


def _is_optimizer(value: Any) -> bool:
    return isinstance(value, Optimizer) or (hasattr(value, "param_groups") and not isinstance(value, type))


def _wrapped_by(optimizer: Any) -> str | None:
    """The package of the framework whose wrapper this is. An optimizer may well have an ``optimizer`` of its own."""
    if not _is_optimizer(optimizer) or not _is_optimizer(getattr(optimizer, "optimizer", None)):
        return None
    packages = [kind.__module__.partition(".")[0] for kind in type(optimizer).__mro__]
    return next((package for package in packages if package in _FRAMEWORKS), None)


def _some(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} (and {len(names) - 1} more)"
