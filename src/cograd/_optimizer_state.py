"""The state of an optimizer by the names of its parameters, so that it finds them whatever their order."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from cograd._optimizers import members
from cograd.errors import quoted

Names = Mapping[Tensor, str]  # parameter -> model.key


def save_optimizer(optimizer: Optimizer, names: Names) -> dict[str, Any]:
    """Its ``state_dict``, with names in place of positions.

    Returns:
        ``param_groups`` and ``state`` by names; ``more``, the other entries of its ``state_dict``; ``inside``, the
        optimizers that it drives.
    """
    state = optimizer.state_dict()
    name_of = _positions(optimizer, state, names)
    return {
        "param_groups": [
            {key: value for key, value in group.items() if key not in ("params", "param_names")}
            | {"params": [name_of[i] for i in group["params"]]}
            for group in state["param_groups"]
        ],
        "state": {name_of.get(i, i): value for i, value in state["state"].items()},
        "more": {key: value for key, value in state.items() if key not in ("param_groups", "state")},
        "inside": {key: save_optimizer(inner, names) for key, inner in _inside(optimizer).items()},
    }


def load_optimizer(optimizer: Optimizer, names: Names, saved: Mapping[str, Any]) -> None:
    """Load copies, and in their own dtype: torch casts the state to that of the parameters."""
    saved = copy.deepcopy(dict(saved))
    own = optimizer.state_dict()
    position = {name: i for i, name in _positions(optimizer, own, names).items()}
    groups = [
        group | {"params": mine["params"]}
        for group, mine in zip(saved["param_groups"], own["param_groups"], strict=True)
    ]
    state = {position.get(name, name): value for name, value in saved["state"].items()}
    groups_before = optimizer.param_groups
    before = list(groups_before)
    sharing = [inner for inner in _driven(optimizer).values() if inner.param_groups is groups_before]
    optimizer.load_state_dict({**saved["more"], "state": state, "param_groups": groups})
    # torch makes new groups, but those who share the old ones (an optimizer inside, a scheduler) must see the change
    for i, (old, new) in enumerate(zip(before, optimizer.param_groups, strict=True)):
        if old is not new:
            old.clear()
            old.update(new)
            optimizer.param_groups[i] = old
    for parameter in members(optimizer):
        for key, value in saved["state"].get(names.get(parameter), {}).items():
            optimizer.state[parameter][key] = _like(value, optimizer.state[parameter].get(key))
    for key, inner in _inside(optimizer).items():
        load_optimizer(inner, names, saved["inside"][key])
    for inner in sharing:
        inner.param_groups = optimizer.param_groups


def optimizer_differences(
    name: str, mine: Mapping[str, Any], saved: Mapping[str, Any], models: Mapping[str, Mapping[str, Any]]
) -> Iterator[str]:
    """What keeps ``saved`` from being loaded where ``mine`` is the state now, and ``models`` that of the models."""
    if mine["inside"].keys() != saved["inside"].keys():
        yield f"optimizer {name!r} drives {quoted(mine['inside'])} inside; in the state {quoted(saved['inside'])}."
        return
    for key in mine["inside"]:
        yield from optimizer_differences(f"{name}.{key}", mine["inside"][key], saved["inside"][key], models)
    groups, others = ([group["params"] for group in each["param_groups"]] for each in (mine, saved))
    sizes, other_sizes = list(map(len, groups)), list(map(len, others))
    if sizes != other_sizes:
        yield f"optimizer {name!r} has parameter groups of sizes {sizes}; the state has {other_sizes}."
        return
    for i, (group, other) in enumerate(zip(groups, others, strict=True)):
        if set(group) != set(other):
            here, there = sorted(set(group) - set(other)), sorted(set(other) - set(group))
            yield f"group {i} of optimizer {name!r} holds {quoted(here)}; in the state, {quoted(there)} instead."
    yield from _shape_differences(name, mine["state"], saved["state"], models)
    if groups != others and list(map(set, groups)) == list(map(set, others)):
        together = sum(sizes) > 1 and set(saved["state"]) == {others[0][0]}
        if together or saved["more"]:
            yield (
                f"optimizer {name!r} keeps a state that follows the order of its parameters, and that has changed: "
                f"it begins with {_first_change(groups, others)}. Make it from the parameters in the old order."
            )


def _shape_differences(
    name: str, mine: Mapping[Any, Any], saved: Mapping[Any, Any], models: Mapping[str, Mapping[str, Any]]
) -> Iterator[str]:
    """Of what has the shape of its parameter. Other tensors may grow with time."""
    for model, parameters in models.items():
        for key, p in parameters.items():
            own, other = (each.get(f"{model}.{key}", {}) for each in (mine, saved))
            for part, value in own.items():
                there = other.get(part)
                if isinstance(value, Tensor) and isinstance(there, Tensor) and p.shape == value.shape != there.shape:
                    yield (
                        f"{part!r} of {model}.{key} in optimizer {name!r} is {tuple(value.shape)}; in the state "
                        f"{tuple(there.shape)}."
                    )


def _first_change(groups: list[list[str]], others: list[list[str]]) -> str:
    here, there = next(
        (a, b) for each in zip(groups, others, strict=True) for a, b in zip(*each, strict=True) if a != b
    )
    return f"{here!r} where the state has {there!r}"


def _positions(optimizer: Optimizer, state: Mapping[str, Any], names: Names) -> dict[int, str]:
    """Position in the optimizer's own ``state_dict`` -> name. A part may have been taken out of a model."""
    positions = [i for group in state["param_groups"] for i in group["params"]]
    return {
        i: names.get(p, f"a parameter of no model ({i})") for i, p in zip(positions, members(optimizer), strict=True)
    }


def _inside(optimizer: Optimizer) -> dict[str, Optimizer]:
    """The optimizers that it drives, as SAM does its base, whose state is not in its own."""
    state = getattr(optimizer, "state", None)
    return {key: value for key, value in _driven(optimizer).items() if value.state is not state}


def _driven(optimizer: Optimizer) -> dict[str, Optimizer]:
    return {key: value for key, value in vars(optimizer).items() if isinstance(value, Optimizer)}


def _like(value: Any, loaded: Any) -> Any:
    """``value`` on the device to which it was loaded."""
    if isinstance(value, Tensor) and isinstance(loaded, Tensor):
        return value.to(loaded.device)
    if isinstance(value, list) and isinstance(loaded, list):
        return [_like(a, b) for a, b in zip(value, loaded, strict=True)]
    return value
