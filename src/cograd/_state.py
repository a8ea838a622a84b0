"""Save and load what the next step of a ``Joint`` depends on."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.optim import Optimizer

from cograd.errors import StateError, quoted, report

if TYPE_CHECKING:
    from cograd._joint import Joint

FORMAT = 1


def save_state(joint: Joint) -> dict[str, Any]:
    """The state as plain tensors, numbers, strings and containers."""
    models = {name: joint.models[name] for name in joint.models}
    return {
        "format": FORMAT,
        "steps": joint.steps,
        "updates": dict(joint.updates),
        "losses": sorted(joint._setup.returned),
        "models": {name: model.state_dict() for name, model in models.items()},
        "training": {name: {k: m.training for k, m in model.named_modules()} for name, model in models.items()},
        "requires_grad": {name: {k: p.requires_grad for k, p in m.named_parameters()} for name, m in models.items()},
        "kinds": {name: type(optimizer).__name__ for name, optimizer in joint.optimizers.items()},
        "optimizers": {name: optimizer.state_dict() for name, optimizer in joint.optimizers.items()},
        "phases": [
            {"phase": str(update.phase), "weighting": balance.state_dict() if balance else None}
            for update in joint._updates
            for balance in (update.weights.balance,)
        ],
    }


def load_state(joint: Joint, state: Mapping[str, Any]) -> None:
    """Check everything, then load everything."""
    try:
        problems = list(_differences(joint, state))
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise StateError(f"This is no Joint.state_dict(), or a damaged one; nothing was loaded. {error!r}") from error
    if problems:
        raise StateError(f"This state does not fit, and nothing was loaded. {report(problems)}")
    joint.steps = state["steps"]
    joint.updates.update(state["updates"])
    joint._setup.returned.update(state["losses"])
    for name, saved in state["models"].items():
        model = joint.models[name]
        model.load_state_dict(saved)
        for key, module in model.named_modules():
            module.training = state["training"][name][key]
        for key, parameter in model.named_parameters():
            parameter.requires_grad_(state["requires_grad"][name][key])
    for name, saved in state["optimizers"].items():
        _load_optimizer(joint.optimizers[name], saved)
    for update, saved in zip(joint._updates, state["phases"], strict=True):
        if update.weights.balance is not None:
            update.weights.balance.load_state_dict(saved["weighting"])


def _differences(joint: Joint, state: Mapping[str, Any]) -> Iterator[str]:
    if not isinstance(state, Mapping) or state.get("format") != FORMAT:
        found = state.get("format") if isinstance(state, Mapping) else type(state).__name__
        yield f"It must be a Joint.state_dict() of format {FORMAT}; found {found!r}."
        return
    mine = save_state(joint)
    if missing := mine.keys() - state.keys():
        yield f"It lacks {quoted(sorted(missing))}."
        return
    for what, names in (("models", list(joint.models)), ("optimizers", list(joint.optimizers))):
        if set(names) != set(state[what]):
            yield f"The {what} are {quoted(names)}; the state has {quoted(state[what])}."
    for name in joint.models:
        if name in state["models"]:
            yield from _model_differences(name, mine["models"][name], state["models"][name])
            yield from _key_differences(name, mine["training"][name], state["training"][name])
    for name, optimizer in joint.optimizers.items():
        if name in state["optimizers"]:
            if mine["kinds"][name] != state["kinds"][name]:
                yield f"optimizer {name!r} is {mine['kinds'][name]}; the state is of {state['kinds'][name]}."
            sizes = [len(group["params"]) for group in optimizer.param_groups]
            saved = [len(group["params"]) for group in state["optimizers"][name]["param_groups"]]
            if sizes != saved:
                yield f"optimizer {name!r} has parameter groups of sizes {sizes}; the state has {saved}."
    phases = [str(update.phase) for update in joint._updates]
    saved_phases = [phase["phase"] for phase in state["phases"]]
    if phases != saved_phases:
        yield f"The phases are {quoted(phases)}; the state has {quoted(saved_phases)}."
        return
    for update, phase in zip(joint._updates, state["phases"], strict=True):
        balance = update.weights.balance
        rule = type(balance.rule).__name__ if balance else None
        saved_rule = phase["weighting"]["rule"] if phase["weighting"] else None
        if rule != saved_rule:
            yield f"The weighting of the phase '{update.phase}' is {rule}; the state has {saved_rule}."


def _model_differences(name: str, mine: Mapping[str, Any], saved: Mapping[str, Any]) -> Iterator[str]:
    yield from _key_differences(name, mine, saved)
    for key, a in mine.items():
        b = saved.get(key)
        if isinstance(a, Tensor) and isinstance(b, Tensor) and (a.shape, a.dtype) != (b.shape, b.dtype):
            yield f"{name}.{key} is {tuple(a.shape)} {a.dtype} in the model, {tuple(b.shape)} {b.dtype} in the state."


def _key_differences(name: str, mine: Mapping[str, Any], saved: Mapping[str, Any]) -> Iterator[str]:
    for key in mine:
        if key not in saved:
            yield f"{name}.{key} is in the model, not in the state."
    for key in saved:
        if key not in mine:
            yield f"{name}.{key} is in the state, not in the model."


def _load_optimizer(optimizer: Optimizer, saved: Mapping[str, Any]) -> None:
    """Load copies, and in their own dtype: torch casts the state to that of the parameters."""
    saved = copy.deepcopy(dict(saved))
    optimizer.load_state_dict(dict(saved))
    ids = [i for group in saved["param_groups"] for i in group["params"]]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for i, parameter in zip(ids, parameters, strict=True):
        for key, value in saved["state"].get(i, {}).items():
            optimizer.state[parameter][key] = _like(value, optimizer.state[parameter].get(key))


def _like(value: Any, loaded: Any) -> Any:
    """``value`` on the device to which it was loaded."""
    if isinstance(value, Tensor) and isinstance(loaded, Tensor):
        return value.to(loaded.device)
    if isinstance(value, list) and isinstance(loaded, list):
        return [_like(a, b) for a, b in zip(value, loaded, strict=True)]
    return value
