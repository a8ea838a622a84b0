"""Save and load what the next step of a ``Joint`` depends on."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cograd._accumulation import Account, Held
from cograd._asked import Asked
from cograd._caller import level_of_caller
from cograd._expect import Setup
from cograd._models import named_parameters, plain_name
from cograd._optimizer_state import load_optimizer, optimizer_differences, save_optimizer
from cograd._precision import Precision
from cograd._schedules import Schedule, check_states
from cograd._trailing import Follower
from cograd._update import Update
from cograd.errors import ModelError, StateError, nearest, quoted, report, shown

FORMAT = 4
_MOST = 12  # lines of a message


@dataclass(frozen=True, slots=True)
class Extras:
    """What a joint keeps beside its phases."""

    schedules: Mapping[str, Schedule]
    followers: Mapping[str, Follower]
    precision: Precision
    asked: Asked


def save_state(setup: Setup, phases: Sequence[Update], extras: Extras, counters: Mapping[str, Any]) -> dict[str, Any]:
    """The state as plain tensors, numbers, strings and containers."""
    models = {name: setup.models[name] for name in setup.models}
    names = _names(setup)
    return {
        "format": FORMAT,
        **counters,
        "losses": sorted(setup.returned),
        "models": {name: _plain_state(model) for name, model in models.items()},
        "training": {name: {plain_name(k): m.training for k, m in o.named_modules()} for name, o in models.items()},
        "requires_grad": {name: {k: p.requires_grad for k, p in named_parameters(m)} for name, m in models.items()},
        "kinds": {name: type(optimizer).__name__ for name, optimizer in setup.optimizers.items()},
        "optimizers": {name: save_optimizer(optimizer, names) for name, optimizer in setup.optimizers.items()},
        "phases": [
            {
                "phase": str(update.phase),
                "weighting": balance.state_dict() if balance else None,
                "held": {name: _held(setup.models[name], held) for name, held in update.gathered.items()},
            }
            for update in phases
            for balance in (update.weights.balance,)
        ],
        "deferred": {name: _by_name(setup.models[name], waiting) for name, waiting in setup.deferred.items()},
        "schedulers": {name: schedule.state_dict() for name, schedule in extras.schedules.items()},
        "followers": {name: follower.state_dict() for name, follower in extras.followers.items()},
        "precision": extras.precision.state_dict(),
        "asked": extras.asked.running,
    }


def load_state(
    setup: Setup, phases: Sequence[Update], extras: Extras, counters: Mapping[str, Any], state: Mapping[str, Any]
) -> None:
    """Check everything, then load everything but the counters. Warns of what the script asks for in another way."""
    mine = save_state(setup, phases, extras, counters)
    _check_parts(mine, state)
    try:
        problems = list(_differences(mine, extras, state))
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise StateError(f"This is no Joint.state_dict(), or a damaged one; nothing was loaded. {error!r}") from error
    if problems:
        one = next(iter(state["models"]), "")
        raise StateError(
            f"This state does not fit, and nothing was loaded. {report(problems, _MOST)}\n"
            "Build the Joint as it was when the state was taken, or load single models from it, as from "
            f'state["models"]["{one}"].'
        )
    setup.returned.clear()
    setup.returned.update(state["losses"])
    for name, saved in state["models"].items():
        model = setup.models[name]
        model.load_state_dict(_own_state(model, saved))
        for key, module in model.named_modules():
            module.training = state["training"][name][plain_name(key)]
        for key, parameter in named_parameters(model):
            parameter.requires_grad_(state["requires_grad"][name][key])
    names = _names(setup)
    for name, saved in state["optimizers"].items():
        load_optimizer(setup.optimizers[name], names, saved)
    for update, saved in zip(phases, state["phases"], strict=True):
        if update.weights.balance is not None:
            update.weights.balance.load_state_dict(saved["weighting"])
        update.forget()
        update.gathered.update({name: _load_held(setup.models[name], held) for name, held in saved["held"].items()})
    for name, saved in state["deferred"].items():
        setup.deferred[name] = _by_parameter(setup.models[name], saved)
    for name, schedule in extras.schedules.items():
        schedule.load_state_dict(state["schedulers"][name])
    for name, follower in extras.followers.items():
        follower.load_state_dict(state["followers"][name])
    extras.precision.load_state_dict(state["precision"])
    setup.loaded = frozenset(state["losses"])
    for difference in extras.asked.load(state["asked"]):
        warnings.warn(difference, stacklevel=level_of_caller())


def move_state(setup: Setup, phases: Sequence[Update], extras: Extras, device: torch.device) -> None:
    """Move everything that the next step depends on to ``device``. The states of optimizers go by torch's rules.

    Raises:
        ModelError: the parameters there would be other objects. Nothing was moved.
    """
    names = _names(setup)
    there = torch.empty(0, device=device)
    kept = torch.__future__.get_swap_module_params_on_conversion()
    if not kept and not all(torch._has_compatible_shallow_copy_type(p, there) for p in names):
        raise ModelError(
            f"On the way to {device}, torch makes new parameters, of which the optimizers would not know. Move the "
            "models before their optimizers are made, and then make the Joint."
        )
    optimizers = {name: save_optimizer(optimizer, names) for name, optimizer in setup.optimizers.items()}
    for name in setup.models:
        setup.models[name].to(device)
    for name, saved in optimizers.items():
        load_optimizer(setup.optimizers[name], names, saved)
    for name, waiting in setup.deferred.items():
        setup.deferred[name] = _moved(waiting, device)
    for update in phases:
        for held in update.gathered.values():
            held.sums = _moved(held.sums, device)
        if balance := update.weights.balance:
            balance.load_state_dict(_moved(balance.state_dict(), device))
    for follower in extras.followers.values():
        follower.load_state_dict(follower.state_dict())
    extras.precision.device = device.type


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {key: _moved(part, device) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_moved(part, device) for part in value)
    return value


def _names(setup: Setup) -> dict[Tensor, str]:
    return {p: f"{name}.{key}" for name in setup.models for key, p in named_parameters(setup.models[name])}


def _plain_state(model: nn.Module) -> dict[str, Any]:
    """The state of ``model`` under the names that it has where nothing is compiled."""
    state = model.state_dict()
    plain: dict[str, Any] = OrderedDict((plain_name(key), value) for key, value in state.items())
    vars(plain)["_metadata"] = {plain_name(key): value for key, value in getattr(state, "_metadata", {}).items()}
    return plain


def _own_state(model: nn.Module, plain: Mapping[str, Any]) -> dict[str, Any]:
    """``plain`` under the names of ``model``, of which parts may be compiled."""
    versions = getattr(plain, "_metadata", {})
    own: dict[str, Any] = OrderedDict((key, plain[plain_name(key)]) for key in model.state_dict())
    vars(own)["_metadata"] = {key: versions.get(plain_name(key), {}) for key, _ in model.named_modules()}
    return own


def _held(model: nn.Module, held: Held) -> dict[str, Any]:
    accounts = {
        loss: {"first": account.first, "total": account.total, "sums": _by_name(model, account.sums)}
        for loss, account in held.accounts.items()
    }
    return {"turns": held.turns, "count": held.count, "sums": _by_name(model, held.sums), "accounts": accounts}


def _load_held(model: nn.Module, saved: Mapping[str, Any]) -> Held:
    accounts = {
        loss: Account(account["first"], account["total"], _by_parameter(model, account["sums"]))
        for loss, account in saved["accounts"].items()
    }
    return Held(saved["turns"], saved["count"], _by_parameter(model, saved["sums"]), accounts)


def _by_name(model: nn.Module, gradients: Mapping[Tensor, Tensor]) -> dict[str, Tensor]:
    keys: dict[Tensor, str] = {p: key for key, p in named_parameters(model)}
    return {keys[p]: g for p, g in gradients.items() if p in keys}  # a part may have been taken out of the model


def _by_parameter(model: nn.Module, saved: Mapping[str, Tensor]) -> dict[Tensor, Tensor]:
    parameters: dict[str, Tensor] = dict(named_parameters(model))
    return {parameters[key]: g.to(parameters[key].device, copy=True) for key, g in saved.items()}


def _check_parts(mine: Mapping[str, Any], state: Any) -> None:
    version = state.get("format") if isinstance(state, Mapping) else None
    if not isinstance(version, int) or version != FORMAT:
        found = f"a {type(state).__name__} of format {shown(version)}" if isinstance(state, Mapping) else shown(state)
        raise StateError(
            f"A Joint loads what Joint.state_dict() returned, of format {FORMAT}, and nothing was loaded; found "
            f"{found}. Pass that, or take the version of cograd that made it."
        )
    if missing := mine.keys() - state.keys():
        raise StateError(
            f"This state lacks {quoted(sorted(missing))}, and nothing was loaded. Pass all that Joint.state_dict() "
            "returned."
        )


def _differences(mine: Mapping[str, Any], extras: Extras, state: Mapping[str, Any]) -> Iterator[str]:
    """Where ``state`` differs in kind from ``mine``, the state of the Joint that it is to be loaded into."""
    for what in ("models", "optimizers"):
        yield from _name_differences(what, mine[what], state[what])
    for name in mine["optimizers"]:
        if name in state["optimizers"]:
            if mine["kinds"][name] != state["kinds"][name]:
                yield f"optimizer {name!r} is {mine['kinds'][name]}; the state is of {state['kinds'][name]}."
            else:
                own, saved = mine["optimizers"][name], state["optimizers"][name]
                yield from optimizer_differences(name, own, saved, mine["models"])
    yield from check_states(extras.schedules, state["schedulers"])
    yield from _name_differences("followers", mine["followers"], state["followers"])
    for name, follower in extras.followers.items():
        if name in state["followers"]:
            yield from follower.differences(state["followers"][name])
    yield from _phase_differences(mine["phases"], state["phases"])
    for name in mine["models"]:
        if name in state["models"]:
            yield from _model_differences(name, mine, state)


def _name_differences(what: str, mine: Mapping[str, Any], saved: Mapping[str, Any]) -> Iterator[str]:
    if mine.keys() != saved.keys():
        spare = saved.keys() - mine.keys()
        hints = [f" It has no {name!r}.{hint}" for name in mine if name not in saved and (hint := nearest(name, spare))]
        yield f"The {what} are {quoted(mine)}; the state has {quoted(saved)}.{''.join(hints)}"


def _phase_differences(mine: Sequence[Mapping[str, Any]], saved: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    phases, saved_phases = ([phase["phase"] for phase in each] for each in (mine, saved))
    if phases != saved_phases:
        yield f"The phases are {quoted(phases)}; the state has {quoted(saved_phases)}."
        return
    for own, other in zip(mine, saved, strict=True):
        rule, saved_rule = (phase["weighting"]["rule"] if phase["weighting"] else None for phase in (own, other))
        if rule != saved_rule:
            yield f"The weighting of the phase '{own['phase']}' is {rule}; the state has {saved_rule}."


def _model_differences(name: str, mine: Mapping[str, Any], state: Mapping[str, Any]) -> Iterator[str]:
    """Of parameters and buffers; of modules only where those are the same, since they follow from them."""
    own, saved = mine["models"][name], state["models"][name]
    differences = list(_key_differences(name, own, saved))
    for key, a in own.items():
        b = saved.get(key)
        if isinstance(a, Tensor) and isinstance(b, Tensor) and (a.shape, a.dtype) != (b.shape, b.dtype):
            differences.append(
                f"{name}.{key} is {tuple(a.shape)} {a.dtype} in the model, {tuple(b.shape)} {b.dtype} in the state."
            )
    yield from differences or _key_differences(f"module {name}", mine["training"][name], state["training"][name])


def _key_differences(name: str, mine: Mapping[str, Any], saved: Mapping[str, Any]) -> Iterator[str]:
    for key in mine:
        if key not in saved:
            yield f"{name}.{key} is in the model, not in the state."
    for key in saved:
        if key not in mine:
            yield f"{name}.{key} is in the state, not in the model."
