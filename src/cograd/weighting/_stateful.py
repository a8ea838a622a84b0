"""Stateful: a rule together with its state, for loops that call it step after step."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any, final

import torch
from torch import Tensor

from cograd.errors import StateError, WeightingError, quoted
from cograd.weighting._contract import Seen, State, Weighting


@final
class Stateful:
    """A weighting that remembers. ``Joint`` keeps one per phase; ``cograd.backward`` takes one.

    Args:
        rule: the rule.

    Raises:
        WeightingError: ``rule`` is not a weighting, or needs what this version does not compute.

    Attributes:
        rule: the rule.
        steps: how often its weights were used.

    >>> import cograd
    >>> balance = Stateful(cograd.weighting.FirstValue())
    >>> x = torch.tensor(2.0, requires_grad=True)
    >>> for _ in range(2):
    ...     report = cograd.backward({"a": x**2}, weighting=balance)
    >>> balance.state_dict()
    {'rule': 'FirstValue', 'steps': 2, 'names': ['a'], 'state': {'first': {'a': tensor(4.)}}}
    """

    def __init__(self, rule: Weighting) -> None:
        if not isinstance(rule, Weighting):
            raise WeightingError(f"A weighting is a rule such as cograd.weighting.FirstValue(); found {rule!r}.")
        if not rule.needs <= {"losses"}:
            raise WeightingError(
                f"{type(rule).__name__} needs {quoted(sorted(rule.needs - {'losses'}))}, which this version of cograd "
                "does not compute. Use a rule that needs only the losses."
            )
        self.rule = rule
        self.steps = 0
        self._names: tuple[str, ...] = ()
        self._state: State = rule.init(())
        self._next: tuple[tuple[str, ...], State] = self._names, self._state

    def before(self, names: Iterable[str], step: int) -> dict[str, float]:
        """The weights of a rule that needs nothing; 1 for every loss under any other."""
        if self.rule.needs:
            return dict.fromkeys(names, 1.0)
        names = tuple(names)
        weights, state = self.rule.weigh(Seen(names, None, (True,) * len(names), step), self._state)
        self._next = self._names, state
        return dict(zip(names, weights.tolist(), strict=True))

    def weigh(self, losses: Mapping[str, Tensor], step: int) -> dict[str, Tensor]:
        """The weights of the present ``losses``, scalars. The new state waits for :meth:`commit`."""
        self._next = self._names, self._state
        if not losses:
            return {}
        names = self._names + tuple(name for name in losses if name not in self._names)
        first = next(iter(losses.values()))
        kind = torch.promote_types(first.dtype, torch.float32)
        present = tuple([name in losses for name in names])
        values = [losses[name].detach() if name in losses else first.new_zeros(()) for name in names]
        if any([(v.dtype, v.device) != (kind, first.device) for v in values]):
            values = [v.to(first.device, kind) for v in values]
        weights, state = self.rule.weigh(Seen(names, torch.stack(values), present, step), self._state)
        self._next = names, state
        return {name: w for name, w in zip(names, weights.unbind(), strict=True) if name in losses}

    def commit(self) -> None:
        """The step is done: its state becomes the current one."""
        self._names, self._state = self._next
        self.steps += 1

    def state_dict(self) -> dict[str, Any]:
        """The rule's name, the losses that it has seen, and its state: plain tensors, numbers and names."""
        return {
            "rule": type(self.rule).__name__,
            "steps": self.steps,
            "names": list(self._names),
            "state": dict(self._state),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state``.

        Raises:
            StateError: it is none, or belongs to another rule. Nothing was loaded.
        """
        if not isinstance(state, Mapping) or not state.keys() >= self.state_dict().keys():
            raise StateError(
                f"The weighting is {type(self.rule).__name__}; the state must be its state_dict(); found {state!r}."
            )
        if state["rule"] != type(self.rule).__name__:
            raise StateError(f"The weighting is {type(self.rule).__name__}; the state is of {state['rule']}.")
        self.steps = state["steps"]
        self._names, self._state = tuple(state["names"]), copy.deepcopy(dict(state["state"]))
        self._next = self._names, self._state
