"""Stateful: a rule together with its state, for loops that call it step after step."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from cograd.errors import StateError, WeightingError, quoted, shown
from cograd.weighting._contract import Seen, State, Weighting
from cograd.weighting._foreign import as_rule
from cograd.weighting._jacobian import JacobianWeighting


@dataclass(frozen=True, slots=True)
class Shared:
    """What is known of n losses that share parameters.

    Attributes:
        names: the losses.
        gramian: ``[n, n]`` float64 on the CPU.
        abs: ``[n, 2]``, see :class:`Seen`; None unless the rule needs it.
        jacobian: ``[n, P]``, see :class:`Seen`; None unless the rule needs it.
    """

    names: tuple[str, ...]
    gramian: Tensor
    abs: Tensor | None = None
    jacobian: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What the rule says of the losses of a step.

    Attributes:
        weights: loss -> weight; 1 where a loss shares nothing.
        directions: in place of weights, for each :class:`Shared`: ``[P]``; empty if there are weights.
    """

    weights: dict[str, float]
    directions: list[Tensor]


@dataclass(frozen=True, slots=True)
class _Memory:
    names: tuple[str, ...]
    state: State
    held: Mapping[str, float]  # the weights of the last Gramian
    age: int = 0  # steps that used them


@final
class Stateful:
    """A weighting that remembers. ``Joint`` keeps one per phase; ``cograd.backward`` takes one.

    Args:
        rule: the rule, or a function from a Gramian ``[K, K]`` to weights ``[K]``.
        refresh: compute the Gramian only at each n-th step, and use its weights until the next.

    Raises:
        WeightingError: ``rule`` is not a weighting, or ``refresh`` is not a whole number of at least 1.

    Attributes:
        rule: the rule.
        steps: how often its weights were used.
        epochs: how often :meth:`end_epoch` was called.

    >>> import cograd
    >>> balance = Stateful(cograd.weighting.FirstValue())
    >>> x = torch.tensor(2.0, requires_grad=True)
    >>> for _ in range(2):
    ...     report = cograd.backward({"a": x**2}, weighting=balance)
    >>> balance.steps, balance.state_dict()["state"]
    (2, {'first': {'a': tensor(4.)}})
    """

    def __init__(self, rule: Any, refresh: int = 1) -> None:
        if isinstance(rule, Stateful):
            raise WeightingError(
                f"A state of its own is kept here, so pass the bare rule: {rule.rule!r}. (Stateful is for "
                "cograd.backward; a Joint keeps one for each phase.)"
            )
        self.rule: Weighting = as_rule(rule)
        if not isinstance(refresh, int) or isinstance(refresh, bool) or refresh < 1:
            raise WeightingError(f"refresh must be a whole number of at least 1; found {shown(refresh)}.")
        if refresh > 1 and not self.shares:
            raise WeightingError(
                f"refresh={refresh} spares Gramians, and {type(self.rule).__name__} needs none. Leave it out."
            )
        if refresh > 1 and "jacobian" in self.rule.needs:
            raise WeightingError(
                f"refresh={refresh} uses weights again, and {type(self.rule).__name__} gives a direction, not weights. "
                "Leave it out."
            )
        self.refresh = refresh
        self.steps = 0
        self.epochs = 0
        self._memory = self._next = _Memory((), self.rule.init(()), {})

    def __repr__(self) -> str:
        refresh = f", refresh={self.refresh}" if self.refresh > 1 else ""
        return f"Stateful({self.rule!r}{refresh})"

    @property
    def shares(self) -> bool:
        """Does the rule look at gradients, so that it weighs only what losses share?"""
        return not self.rule.needs <= {"losses", "after"}

    def before(self, names: Iterable[str], step: int) -> dict[str, float]:
        """The weights of a rule that needs nothing; 1 for every loss under any other."""
        if self.rule.needs:
            return dict.fromkeys(names, 1.0)
        names = tuple(names)
        seen = Seen(names, None, (True,) * len(names), step, self.epochs)
        weights, state = _weighed(self.rule, seen, self._memory.state)
        self._next = _Memory(self._memory.names, state, {})
        return dict(zip(names, weights.tolist(), strict=True))

    def weigh(self, losses: Mapping[str, Tensor], step: int) -> dict[str, Tensor]:
        """The weights of the present ``losses``, scalars. The new state waits for :meth:`commit`."""
        self._next = self._memory
        if not losses:
            return {}
        seen = self._seen(losses, step)
        weights, state = _weighed(self.rule, seen, self._memory.state)
        self._next = _Memory(seen.names, state, {})
        return {name: w for name, w in zip(seen.names, weights.unbind(), strict=True) if name in losses}

    def share(self, losses: Mapping[str, Tensor], shared: Sequence[Shared], step: int) -> Answer:
        """The weights, or the direction, of what ``losses`` share. The state waits for :meth:`commit`."""
        memory = self._memory
        names = memory.names + tuple(name for name in losses if name not in memory.names)
        held, state = dict.fromkeys(losses, 1.0), memory.state
        directions = []
        for part in shared:
            if "losses" in self.rule.needs:
                seen = self._seen({name: losses[name] for name in part.names}, step, part)
            else:
                here = (True,) * len(part.names)
                seen = Seen(part.names, None, here, step, self.epochs, part.gramian, part.abs, part.jacobian)
            if isinstance(self.rule, JacobianWeighting):
                direction, state = _directed(self.rule, seen, state)
                directions.append(direction)
            else:
                weights, state = _weighed(self.rule, seen, state)
                held.update(zip(part.names, weights.tolist(), strict=True))
        self._next = _Memory(names, state, held, 1)
        return Answer(held, directions)

    def held(self, names: Iterable[str]) -> dict[str, float] | None:
        """The weights of an earlier Gramian, if they are still good for the losses ``names``."""
        memory = self._memory
        if not 0 < memory.age < self.refresh or not all([name in memory.held for name in names]):
            return None
        self._next = _Memory(memory.names, memory.state, memory.held, memory.age + 1)
        return {name: memory.held[name] for name in names}

    def after(self, losses: Mapping[str, Tensor]) -> None:
        """Show a rule that needs it what the losses of the same batch are after the update.

        ``Joint`` does this itself. In a loop of your own, call it after ``optimizer.step()``.
        """
        if losses and "after" in self.rule.needs:
            with torch.no_grad():
                seen = self._seen(losses, self.steps)
                self._memory = _Memory(seen.names, self.rule.after(seen, self._memory.state), {})

    def end_epoch(self) -> None:
        """An epoch is over. Some rules average over epochs."""
        self.epochs += 1

    def commit(self) -> None:
        """The step is done: its state becomes the current one."""
        self._memory = self._next
        self.steps += 1

    def _seen(self, losses: Mapping[str, Tensor], step: int, part: Shared | None = None) -> Seen:
        first = next(iter(losses.values()))
        kind = torch.promote_types(first.dtype, torch.float32)
        known = () if part else self._memory.names
        names = known + tuple([name for name in losses if name not in known])
        present = tuple([name in losses for name in names])
        values = [losses[name].detach() if name in losses else first.new_zeros(()) for name in names]
        if any([(v.dtype, v.device) != (kind, first.device) for v in values]):
            values = [v.to(first.device, kind) for v in values]
        known_of_them = (part.gramian, part.abs, part.jacobian) if part else ()
        return Seen(names, torch.stack(values), present, step, self.epochs, *known_of_them)

    def state_dict(self) -> dict[str, Any]:
        """The rule's name, the losses that it has seen, and its state: plain tensors, numbers and names."""
        return {
            "rule": type(self.rule).__name__,
            "steps": self.steps,
            "epochs": self.epochs,
            "names": list(self._memory.names),
            "state": dict(self._memory.state),
            "held": dict(self._memory.held),
            "age": self._memory.age,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state``.

        Raises:
            StateError: it is none, or belongs to another rule. Nothing was loaded.
        """
        if not isinstance(state, Mapping) or not state.keys() >= self.state_dict().keys():
            raise StateError(
                f"The weighting is {type(self.rule).__name__}; the state must be its state_dict(); found "
                f"{shown(state)}."
            )
        if state["rule"] != type(self.rule).__name__:
            raise StateError(
                f"The weighting is {type(self.rule).__name__}; the state is of {shown(state['rule'])}. Load the state "
                "of this rule, or use the rule of the state."
            )
        self.steps, self.epochs = state["steps"], state["epochs"]
        names, own, held = tuple(state["names"]), copy.deepcopy(dict(state["state"])), dict(state["held"])
        self._memory = self._next = _Memory(names, own, held, state["age"])


def _weighed(rule: Weighting, seen: Seen, state: State) -> tuple[Tensor, State]:
    """What ``rule`` weighs. Raises WeightingError unless that is a weight for each loss, and a state."""
    answer: Any = rule.weigh(seen, state)
    weights, state = _pair(rule, "weigh", "weights", answer)
    if not isinstance(weights, Tensor) or weights.shape != (len(seen.names),):
        raise WeightingError(
            f"{type(rule).__name__}.weigh must return a weight for each of the {len(seen.names)} losses "
            f"{quoted(seen.names)}; found {_form(weights)}."
        )
    return weights, state


def _directed(rule: JacobianWeighting, seen: Seen, state: State) -> tuple[Tensor, State]:
    """Where ``rule`` goes. Raises WeightingError unless that is a finite direction, and a state."""
    assert seen.jacobian is not None
    answer: Any = rule.direction(seen, state)
    found, state = _pair(rule, "direction", "direction", answer)
    if not isinstance(found, Tensor) or found.shape != seen.jacobian.shape[1:]:
        raise WeightingError(
            f"{rule!r} must return a direction of {seen.jacobian.shape[1]} elements; found {_form(found)}."
        )
    if not found.isfinite().all():
        raise WeightingError(f"{rule!r} returned a direction with NaN or infinity. Are the gradients finite?")
    return found.detach(), state


def _pair(rule: Weighting, method: str, what: str, answer: Any) -> tuple[Any, State]:
    if isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[1], Mapping):
        return answer
    raise WeightingError(
        f"{type(rule).__name__}.{method} must return two things, the {what} and the next state, which is a mapping: "
        f"`return {what}, state` where nothing is to be remembered; found {_form(answer)}."
    )


def _form(found: Any) -> str:
    """``found`` in few words: a shape, or a kind."""
    return str(tuple(found.shape)) if isinstance(found, Tensor) else type(found).__name__
