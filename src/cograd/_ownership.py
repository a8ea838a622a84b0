"""Who owns which parameter: in each phase every trainable one is in exactly one optimizer, and no stranger is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice

from torch import nn
from torch.optim import Optimizer

from cograd._models import named_parameters
from cograd._optimizers import members, optimizers_named
from cograd._phase import Phase
from cograd.errors import OptimizerError, quoted, report, unknown


def serving_in(phase: Phase, optimizers: Mapping[str, Optimizer]) -> list[str]:
    """The optimizers that may step in ``phase``: those that it names, or all.

    Raises:
        OptimizerError: it names one that does not exist.
    """
    if phase.optimizers is None:
        return list(optimizers)
    found: list[str] = []
    for name in phase.optimizers:
        if not (named := optimizers_named(name, optimizers)):
            raise OptimizerError(
                f"The phase '{phase}' names optimizer {name!r}. {unknown('optimizers', name, optimizers)}"
            )
        found += named
    return found


def choose_optimizers(
    phases: Iterable[Phase], models: Mapping[str, nn.Module], optimizers: Mapping[str, Optimizer]
) -> tuple[Phase, ...]:
    """Name the optimizers of each phase that names none, where several hold the same parameter.

    They are those that hold all that the phase updates, each parameter once, and nothing else. A phase for which there
    is not exactly one such choice stays as it is, for :func:`check_ownership` to refuse.
    """
    holds = {name: frozenset(map(id, members(optimizer))) for name, optimizer in optimizers.items()}
    if sum(map(len, holds.values())) == len(frozenset[int]().union(*holds.values())):
        return tuple(phases)
    held = frozenset[int]().union(*holds.values())
    chosen = []
    for phase in phases:
        wanted = frozenset(id(p) for name in phase.models for p in models[name].parameters()) & held
        choices = list(islice(_exact_choices(wanted, holds), 2))
        if phase.optimizers is None and len(choices) == 1:
            phase = replace(phase, optimizers=tuple(choices[0]))
        chosen.append(phase)
    return tuple(chosen)


def _exact_choices(wanted: frozenset[int], holds: Mapping[str, frozenset[int]]) -> Iterator[list[str]]:
    """The sets of optimizers that together hold ``wanted``, each parameter once, and nothing else."""
    if not wanted:
        yield []
        return
    first = min(wanted)
    for name, own in holds.items():
        if first in own and own <= wanted:
            yield from ([name, *others] for others in _exact_choices(wanted - own, holds))


def check_ownership(
    models: Mapping[str, nn.Module], optimizers: Mapping[str, Optimizer], phases: Sequence[Phase]
) -> None:
    """In each phase, every parameter that it updates is in exactly one of its optimizers; every optimizer's parameter
    is in a model.

    Raises:
        OptimizerError: lists every model, optimizer and phase for which that does not hold.
    """
    owners: dict[int, list[str]] = {}
    for name, optimizer in optimizers.items():
        for parameter in members(optimizer):
            owners.setdefault(id(parameter), []).append(name)
    known, problems = {}, []
    for model_name, model in models.items():
        orphans = []
        for key, parameter in named_parameters(model):
            known[id(parameter)] = f"{model_name}.{key}"
            if parameter.requires_grad and id(parameter) not in owners:
                orphans.append(f"{model_name}.{key}")
        if orphans:
            problems.append(
                f"{_some(orphans)} of model {model_name!r} can be trained but is in no optimizer. Add it to one, or "
                "freeze it with requires_grad_(False)."
            )
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
    for phase in phases:
        problems += _phase_problems(phase, models, owners, optimizers)
    stepping = {name for phase in phases for name in serving_in(phase, optimizers)}
    for name in optimizers:
        if name not in stepping:
            problems.append(f"optimizers[{name!r}] is named by no phase, so it would never step. Add it to one.")
    if problems:
        raise OptimizerError(report(list(dict.fromkeys(problems))))


def _phase_problems(
    phase: Phase,
    models: Mapping[str, nn.Module],
    owners: Mapping[int, Sequence[str]],
    optimizers: Mapping[str, Optimizer],
) -> Iterator[str]:
    mine = serving_in(phase, optimizers)
    updated = [name for name in phase.models if phase.updates(name)]
    trained = {f"{name}.{key}": p for name in updated for key, p in named_parameters(models[name])}
    owned = {key: owners[id(p)] for key, p in trained.items() if p.requires_grad and id(p) in owners}
    twice = [key for key, names in owned.items() if len(set(names).intersection(mine)) > 1]
    if twice:
        names = [name for name in owned[twice[0]] if name in mine]
        alone = [name for name in mine if all(name in names for names in owned.values())]
        head = phase.call()[:-1]
        calls = [f"{head}, optimizers={name!r})" for name in alone] or [f"{head}, optimizers=[...])"]
        yield (
            f"{twice[0]} ({' and '.join(map(repr, names))}){_more(twice)} is in more than one optimizer, so it would "
            f"step twice in the phase '{phase}'. Keep it in one, or say which one serves the phase: "
            f"{' or '.join(calls)}."
        )
    lacking = [key for key, names in owned.items() if not set(names).intersection(mine)]
    if lacking:
        others = list(dict.fromkeys(name for key in lacking for name in owned[key]))
        yield (
            f"{_some(lacking)} is updated in the phase '{phase}', but is in none of its optimizers "
            f"{quoted(phase.optimizers or ())}. It is in {quoted(others)}: name that one too, or take its model out."
        )


def _some(names: Sequence[str]) -> str:
    return f"{names[0]}{_more(names)}"


def _more(names: Sequence[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""
