"""A phase: one simultaneous update of some models. Everything that alternates is a list of phases."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from cograd._routes import names_in
from cograd.errors import PhaseError, report, shown, unknown
from cograd.weighting import Weighting


@final
@dataclass(frozen=True)
class Phase:
    """Evaluate the losses once, differentiate, then step these models. All others are frozen.

    Args:
        models: a name, or several.
        every: run on each ``every``-th batch: 5 means batches 5, 10, 15, ...
        offset: the batches before the first run: ``every=5, offset=0`` means batches 1, 6, 11, ..., as
            ``if step % 5 == 0`` does where steps count from 0; None for ``every - 1``.
        repeat: run so often on the same batch, evaluating the losses anew each time.
        start: the first step (batches seen before) in which it runs.
        stop: the step from which on it no longer runs; None for never.
        losses: the losses that count here; None for all that train one of these models.
        weighting: a rule for this phase instead of the one given to ``Joint``.
        optimizers: the optimizers that step here, for models of which several optimizers hold the same parameters.
            None for all, or for the only ones that hold exactly what it updates.
        defer: models among ``models`` that are not updated here: their gradient waits for the next
            phase that updates them, which adds it to its own, as a loop by hand does that calls
            ``backward`` twice before ``step``.

    Raises:
        PhaseError: a number is out of range, there is no model, or one that is deferred is not among them.

    >>> critic = Phase("critic", repeat=3)
    >>> [step for step in range(12) if Phase("gen", every=5).due(step)]
    [4, 9]
    >>> [step for step in range(12) if Phase("gen", every=5, offset=0).due(step)]
    [0, 5, 10]
    """

    models: str | Iterable[str]
    every: int = 1
    repeat: int = 1
    start: int = 0
    stop: int | None = None
    losses: str | Iterable[str] | None = None
    weighting: Weighting | None = None
    offset: int | None = None
    optimizers: str | Iterable[str] | None = None
    defer: str | Iterable[str] = ()

    def __post_init__(self) -> None:
        problems = []
        for field, rule in (
            ("models", "at least one model"),
            ("losses", "at least one loss, or be None for all"),
            ("optimizers", "at least one optimizer, or be None for all"),
        ):
            value = getattr(self, field)
            if value is None and field != "models":
                continue
            object.__setattr__(self, field, names_in(value) or ())
            if not getattr(self, field):
                problems.append(f"{field} must name {rule}; found {shown(value)}.")
        first = self.start if isinstance(self.start, int) else 0
        for field, least in (("every", 1), ("repeat", 1), ("start", 0), ("stop", first + 1), ("offset", 0)):
            value = getattr(self, field)
            if value is None and field in ("stop", "offset"):
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                problems.append(f"{field} must be a whole number of at least {least}; found {shown(value)}.")
        mine, deferred = tuple(self.models), names_in(self.defer)
        if deferred is None:
            problems.append(f"defer must be a name among its models, or several; found {shown(self.defer)}.")
        problems += [
            f"defer names {name!r}, which it does not train. {unknown('models', name, mine)}"
            for name in deferred or ()
            if name not in mine
        ]
        object.__setattr__(self, "defer", deferred or ())
        if problems:
            raise PhaseError(report([f"{self.call()}: {problem}" for problem in problems]))

    def due(self, step: int) -> bool:
        """Does it run when ``step`` batches have been seen before?"""
        first = self.every - 1 if self.offset is None else self.offset
        due = step >= first and (step - first) % self.every == 0
        return due and self.start <= step and (self.stop is None or step < self.stop)

    def call(self) -> str:
        """As it could be typed: the models, the losses, what is deferred and the optimizers."""
        fields = (("", self.models), ("losses=", self.losses), ("defer=", self.defer), ("optimizers=", self.optimizers))
        names = [(key, value) for key, value in fields if value]
        return f"Phase({', '.join(f'{key}{_typed(value)}' for key, value in names)})"

    def updates(self, model: str) -> bool:
        """Does it update ``model``, rather than leave its gradient for another phase?"""
        return model in tuple(self.models) and model not in tuple(self.defer)

    def __str__(self) -> str:
        updated = [name for name in self.models if self.updates(name)]
        words = [f"update {', '.join(updated)}"] if updated else []
        if self.defer:
            words.append(f"leave the gradient of {', '.join(self.defer)} for its next update")
        if self.losses is not None:
            words.append(f"by {', '.join(self.losses)}")
        if self.optimizers is not None:
            words.append(f"with the optimizer{'s' * (len(tuple(self.optimizers)) > 1)} {', '.join(self.optimizers)}")
        if self.every > 1:
            words.append(f"every {self.every} batches")
        if self.offset not in (None, self.every - 1):
            words.append(f"from batch {self.offset + 1}" if self.offset else "from the first")
        if self.repeat > 1:
            words.append(f"{self.repeat} times a batch")
        if self.start or self.stop is not None:
            words.append(f"in steps {self.start} to {'the end' if self.stop is None else self.stop - 1}")
        return ", ".join(words)


def _typed(names: Iterable[str]) -> str:
    """``'gen'`` or ``['gen', 'enc']``."""
    several = list(names)
    return repr(several if len(several) > 1 else several[0])


def alternate(
    *models: str | Iterable[str],
    every: Mapping[str, int] | None = None,
    repeat: Mapping[str, int] | None = None,
    offset: Mapping[str, int] | None = None,
) -> list[Phase]:
    """One phase per argument, in turn. Each re-evaluates the losses, so it sees the updates before it.

    Args:
        models: names, or tuples of names that are updated together.
        every: model -> run its phase only on each n-th batch.
        repeat: model -> run its phase n times a batch.
        offset: model -> the batches before the first run of its phase.

    Raises:
        PhaseError: a turn is no name, or an option names a model that is not among ``models``.

    >>> [str(phase) for phase in alternate("critic", "gen", every={"gen": 5})]
    ['update critic', 'update gen, every 5 batches']
    """
    turns = [tuple(Phase(turn).models) for turn in models]
    options: list[dict[str, Any]] = [{} for _ in turns]
    for key, values in (("every", every), ("repeat", repeat), ("offset", offset)):
        if not isinstance(values, Mapping | None):
            raise PhaseError(f"alternate({key}=...) maps models to numbers, as in {{'gen': 5}}; found {shown(values)}.")
        for name, value in (values or {}).items():
            mine = [option for option, turn in zip(options, turns, strict=True) if name in turn]
            if not mine:
                raise PhaseError(
                    f"alternate({key}=...) names {shown(name)}, which takes no turn. "
                    + unknown("turns", name, [name for turn in turns for name in turn])
                )
            for option in mine:
                option[key] = value
    return [Phase(turn, **option) for turn, option in zip(turns, options, strict=True)]


def together(*models: str) -> list[Phase]:
    """One phase that updates all of ``models`` at once.

    >>> [str(phase) for phase in together("gen", "enc") + alternate("disc")]
    ['update gen, enc', 'update disc']
    """
    return [Phase(models)]


def left_for(phase: Phase, phases: Sequence[Phase]) -> list[str]:
    """For people: which gradients ``phase`` adds to its own, since other phases have left them.

    >>> first, second = Phase(("enc", "gen"), defer="gen"), Phase("gen")
    >>> left_for(second, [first, second])
    ['gen: with the gradient that phase 1 has left']
    """
    found = []
    for name in phase.models:
        left = [str(i) for i, other in enumerate(phases, 1) if name in tuple(other.defer)]
        if left and phase.updates(name):
            found.append(f"{name}: with the gradient that phase {' and '.join(left)} has left")
    return found
