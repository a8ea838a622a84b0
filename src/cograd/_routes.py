"""Which loss trains which model: read the declaration, refuse names that do not exist."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cograd.errors import CogradError, RouteError, nearest, report, shown, unknown

Trains = Mapping[str, str | Iterable[str]]


def names_in(value: Any) -> tuple[str, ...] | None:
    """One name or several as a tuple without repeats; None for anything else."""
    try:
        names = (value,) if isinstance(value, str) else tuple(value)
    except TypeError:  # it cannot be iterated, or says only when it is tried, as a tensor without dimensions does
        names = (value,)
    return tuple(dict.fromkeys(names)) if all(isinstance(name, str) for name in names) else None


def model_names(value: str | Iterable[str], where: str, known: Collection[str]) -> tuple[str, ...]:
    """One name or several as a tuple without repeats.

    Raises:
        RouteError: a name is not in ``known``, or there is none.
    """
    names = names_in(value)
    if names is None:
        raise RouteError(f"{where} must be a name, or several; found {shown(value)}. {unknown('models', value, known)}")
    if not names:
        raise RouteError(f"{where} is empty: name at least one model. {unknown('models', '', known)}")
    for name in names:
        if name not in known:
            raise RouteError(
                f"{where} names model {shown(name)}, which does not exist. {unknown('models', name, known)}"
            )
    return names


def parse_trains(trains: Trains | None, models: Collection[str]) -> dict[str, tuple[str, ...]]:
    """``trains`` as loss -> model names; a loss without an entry trains all models that it reaches.

    >>> parse_trains({"disc": "disc", "gen": ["gen", "enc"]}, ["gen", "disc", "enc"])
    {'disc': ('disc',), 'gen': ('gen', 'enc')}

    Raises:
        RouteError: lists every entry that names an unknown model.
    """
    if not isinstance(trains, Mapping | None):
        raise RouteError(f'trains maps losses to models, as in {{"disc": "disc"}}; found {shown(trains)}.')
    if turned := _turned_round(trains or {}, models):
        raise RouteError(
            f"trains maps losses to models, but {turned[0]!r} is a model and {turned[1]!r} is none. If that is a loss, "
            f"turn it round: {{{turned[1]!r}: {turned[0]!r}}}. {unknown('models', turned[1], models)}"
        )
    routes, problems = {}, []
    for loss, value in (trains or {}).items():
        try:
            routes[loss] = model_names(value, f"trains[{shown(loss)}]", models)
        except RouteError as error:
            problems.append(str(error))
    if problems:
        raise RouteError(report(problems))
    return routes


def _turned_round(trains: Trains, models: Collection[str]) -> tuple[str, str] | None:
    """A key that is a model and what it names, if all keys are models and nothing that they name is like one."""
    named = [name for value in trains.values() for name in names_in(value) or ()]
    if not named or not all(loss in models for loss in trains):
        return None
    return None if any(name in models or nearest(name, models) for name in named) else (next(iter(trains)), named[0])


@dataclass(frozen=True, slots=True)
class Mention:
    """A place where the user named a loss, before anything was known of it.

    Attributes:
        loss: the name.
        where: the place, for the message.
        error: what it is if there is no such loss.
    """

    loss: str
    where: str
    error: type[CogradError]


def check_mentions(mentions: Iterable[Mention], returned: Collection[str]) -> None:
    """Every loss that was named must be among those that the losses function returned."""
    missing = list(dict.fromkeys(mention for mention in mentions if mention.loss not in returned))
    if missing:
        problems = [
            f"{mention.where} names loss {shown(mention.loss)}, which the losses function did not return. "
            f"{unknown('losses', mention.loss, returned)} If {shown(mention.loss)} is only sometimes there, return it "
            "as None when it is not."
            for mention in missing
        ]
        raise missing[0].error(report(problems))


def check_metrics(mentions: Iterable[Mention], metrics: Collection[str]) -> None:
    """No loss that was named may be one of the ``metrics``, which are only logged."""
    wrong = list(dict.fromkeys(mention for mention in mentions if mention.loss in metrics))
    if wrong:
        problems = [
            f"{mention.where} names {mention.loss!r}, which the losses function returns as a Metric: it is logged and "
            "trains nothing. Take it out there, or return the loss itself."
            for mention in wrong
        ]
        raise wrong[0].error(report(problems))
