"""The event log: append only, and bounded however long the run."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from cograd.tracing._events import Event
from cograd.tracing._sites import NOWHERE, Site
from cograd.tracing._values import Value

FEW = 8  # occurrences kept of each thing that happens, from the first and from the last
_KEYS = 5000

E = TypeVar("E", bound=Event)


@dataclass(frozen=True, slots=True)
class Parameter:
    """What is known of a parameter at the end of the run.

    Attributes:
        name: as the script would write it.
        model: the variable that holds its module; empty if unknown.
        shape: of the parameter.
        made: where it was made.
        trainable: whether it requires grad at the end, or did at the last backward before it was gone.
        stepped: whether an optimizer ever stepped it with a gradient.
        written: whether it changed otherwise since its first gradient.
        loaded: whether its value came from a state dict.
        registrable: whether it is an ``nn.Parameter``, not just a tensor that requires grad.
        alive: whether it existed at the end, or at the last backward.
        follows: whether its value came from the state dict of another model of the script.
    """

    name: str
    model: str
    shape: tuple[int, ...]
    made: Site
    trainable: bool
    stepped: bool
    written: bool
    loaded: bool
    registrable: bool
    alive: bool
    follows: bool = False


@dataclass(frozen=True, slots=True)
class Optimizer:
    """What is known of an optimizer: the name of its variable, where it was made, and what it holds."""

    name: str
    kind: str
    made: Site
    parameters: frozenset[int]
    steps: int


@dataclass(slots=True, eq=False)
class Log:
    """Everything that the rules may look at.

    Attributes:
        parameters: what each number stands for.
        optimizers: what each number stands for.
        values: the tape of the first iterations.
        outcome: ``finished``, ``raised``, ``interrupted`` or ``stopped``.
        error: what the script raised.
        error_site: the line of the script that it came from.
        unregistered: parameter -> the attribute of a module that hides it in a list or dict.
        put: parameter -> the line that put it there.
        aliases: variable -> an older variable for the same module.
        scaling: whether a GradScaler was at work.
        unchecked: rule -> why it could not be checked.
        unfollowed: why operations could not be followed; empty if they were.
        failures: where the recorder itself failed.
    """

    parameters: Mapping[int, Parameter] = field(default_factory=dict)
    optimizers: Mapping[int, Optimizer] = field(default_factory=dict)
    values: Mapping[int, Value] = field(default_factory=dict)
    outcome: str = "finished"
    error: BaseException | None = None
    error_site: Site = NOWHERE
    unregistered: Mapping[int, str] = field(default_factory=dict)
    put: Mapping[int, Site] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    scaling: bool = False
    unchecked: dict[str, str] = field(default_factory=dict)
    unfollowed: str = ""
    failures: list[str] = field(default_factory=list)
    _first: dict[Hashable, list[Event]] = field(default_factory=dict)
    _last: dict[Hashable, deque[Event]] = field(default_factory=dict)
    _counts: dict[Hashable, int] = field(default_factory=dict)

    def append(self, event: Event) -> None:
        """Keep ``event`` if it is among the first or the last few of its kind, and count it."""
        key = event.key
        if key not in self._counts and len(self._counts) >= _KEYS:
            return
        seen = self._counts[key] = self._counts.get(key, 0) + 1
        if seen <= FEW:
            self._first.setdefault(key, []).append(event)
        else:
            self._last.setdefault(key, deque(maxlen=FEW)).append(event)

    def of(self, kind: type[E]) -> list[E]:
        """The events of one kind that were kept, in the order in which they happened."""
        kept = [e for events in (*self._first.values(), *self._last.values()) for e in events if isinstance(e, kind)]
        return sorted(kept, key=lambda event: event.at)

    def count(self, event: Event) -> int:
        """How often the same thing happened, kept or not."""
        return self._counts[event.key]

    def count_at(self, kind: type[Event], site: Site) -> int:
        """How often something of this kind happened at ``site``, kept or not."""
        return sum(n for key, n in self._counts.items() if isinstance(key, tuple) and key[0] is kind and key[1] == site)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._counts

    def __len__(self) -> int:
        return sum(map(len, self._first.values())) + sum(map(len, self._last.values()))
