"""The contract of all weightings: what was observed -> one weight per loss."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from cograd.errors import WeightingError, quoted, shown

State = Mapping[str, Any]  # plain tensors, numbers and names, keyed by loss name where they belong to a loss


@dataclass(frozen=True, slots=True)
class Seen:
    """What a weighting may look at. K is the number of loss names known so far.

    Attributes:
        names: the K names, in the order in which they first appeared.
        losses: ``[K]`` raw values, detached; 0 where absent. None for a rule that needs nothing.
        present: ``[K]``, whether each loss is in this batch.
        step: batches seen before this one.
        epoch: epochs finished.
        gramian: ``[K, K]`` float64 on the CPU, inner products of the losses' gradients with respect
            to the parameters that they share; 0 where absent. None for a rule that does not need it.
        abs: ``[K, 2]``, the largest and the mean magnitude among the elements of each of those
            gradients; 0 where absent. None for a rule that does not need it.
        jacobian: ``[K, P]``, those gradients themselves, in one row each. None for a rule that does
            not need it.

    >>> seen = Seen(names=("a", "b"), losses=torch.tensor([2.0, 0.0]), present=(True, False), step=7)
    >>> [name for name, here in zip(seen.names, seen.present) if here]
    ['a']
    """

    names: tuple[str, ...]
    # what a rule asks for in `needs` is there: `| Any` where it may be None, so that no rule has to prove it
    losses: Tensor | Any
    present: tuple[bool, ...]
    step: int = 0
    epoch: int = 0
    gramian: Tensor | Any = None
    abs: Tensor | Any = None
    jacobian: Tensor | Any = None


class Weighting(ABC):
    """A rule that turns what was observed into K weights. It holds no state of its own.

    The caller keeps the state, passes it in, and commits the new one only once the step is done.

    Attributes:
        needs: what the rule looks at: a subset of ``{"losses", "gramian", "abs", "after"}``. A rule
            that needs nothing is asked before the losses are evaluated, and a loss that it weights
            zero never is. One that needs the Gramian (or ``abs``) weighs only what losses share: it
            is asked once for each set of losses that share parameters. One that needs ``"after"``
            sees the losses of the same batch again when the step is done. What needs the gradients
            themselves is a :class:`JacobianWeighting`.
        remembers: whether its weights depend on earlier steps, so that its state must be kept.
    """

    __slots__ = ()
    needs: ClassVar[frozenset[str]] = frozenset({"losses"})
    remembers: ClassVar[bool] = False

    @property
    def mentions(self) -> Iterable[str]:
        """The losses that the user named in the rule, each of which must exist."""
        return ()

    def objection(self, loss: float) -> str:
        """What the rule requires of each loss, where one of this value has no weight, or spoils all; else empty."""
        return ""

    def init(self, names: Sequence[str]) -> State:
        """The state before the first step. Losses may appear later that are not in ``names``."""
        return {}

    @abstractmethod
    def weigh(self, seen: Seen, state: State) -> tuple[Tensor, State]:
        """The weights ``[K]`` and the next state. ``state`` itself is not changed."""

    def after(self, seen: Seen, state: State) -> State:
        """The next state, once the same batch's losses are known after the update.

        Only called if ``needs`` holds ``"after"``, with the state that :meth:`weigh` returned.
        """
        return state

    def __call__(
        self,
        losses: Tensor | None = None,
        gramian: Tensor | None = None,
        present: Sequence[bool] | Tensor | None = None,
        abs: Tensor | None = None,
    ) -> Tensor:
        """The weights ``[K]`` that a first step would use.

        Args:
            losses: ``[K]``, if the rule needs them.
            gramian: ``[K, K]``, if the rule needs it.
            present: which of the K losses there are; all if None.
            abs: ``[K, 2]``, if the rule needs it.

        >>> from cograd.weighting import FirstValue
        >>> FirstValue()(torch.tensor([2.0, 0.5]))
        tensor([0.5000, 2.0000])
        """
        given = {"losses": losses, "gramian": gramian, "abs": abs}
        if missing := [what for what, value in given.items() if what in self.needs and value is None]:
            raise WeightingError(f"{type(self).__name__} needs {quoted(missing)}. Pass {missing[0]}=...")
        here = _checked(type(self).__name__, given, present)
        names = tuple(f"loss{k}" for k in range(len(here)))
        seen = Seen(names, losses, here, gramian=gramian, abs=abs)
        return self.weigh(seen, self.init(names))[0]


def _checked(rule: str, given: Mapping[str, Any], present: Any) -> tuple[bool, ...]:
    """Which of the K losses there are, if everything that was given is of K losses."""
    size = next((len(value) for value in given.values() if isinstance(value, Tensor) and value.dim()), None)
    for what, value in given.items():
        shape = {"losses": (size,), "gramian": (size, size), "abs": (size, 2)}[what]
        if value is not None and (not isinstance(value, Tensor) or tuple(value.shape) != shape):
            wanted = str(shape).replace("None", "K")
            raise WeightingError(f"{rule}: {what} must be a tensor of shape {wanted}; found {shown(value)}.")
    if present is None:
        return (True,) * (size or 0)
    flags = present.tolist() if hasattr(present, "tolist") else present
    if not isinstance(flags, list | tuple) or not all(isinstance(flag, int) and flag in (0, 1) for flag in flags):
        raise WeightingError(f"{rule}: present must be a list of bools, or a tensor of them; found {shown(present)}.")
    if size not in (None, len(flags)):
        raise WeightingError(
            f"present must mark each of the {size} losses as there or not; found {len(flags)} marks. Give one for each."
        )
    return tuple(map(bool, flags))


def is_number(value: object) -> bool:
    """A bool is none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_number(rule: Weighting, field: str, below: float = math.inf, positive: bool = False) -> None:
    """Raises WeightingError unless the ``field`` of ``rule`` is a number in [0, ``below``), or above 0."""
    value = getattr(rule, field)
    if not is_number(value) or not 0 <= value < below or (positive and value == 0):
        interval = f"{'(' if positive else '['}0, {below:g})"
        raise WeightingError(f"{type(rule).__name__}: {field} must be a number in {interval}; found {shown(value)}.")


def check_choice(rule: Weighting, field: str, choices: Sequence[str]) -> None:
    """Raises WeightingError unless the ``field`` of ``rule`` is one of ``choices``."""
    value = getattr(rule, field)
    if not isinstance(value, str) or value not in choices:
        raise WeightingError(f"{type(rule).__name__}: {field} must be one of {quoted(choices)}; found {shown(value)}.")


def check_seed(rule: Weighting, field: str = "seed") -> None:
    """Raises WeightingError unless the ``field`` of ``rule`` is a whole number or None."""
    value = getattr(rule, field)
    if isinstance(value, bool) or not isinstance(value, int | None):
        raise WeightingError(f"{type(rule).__name__}: {field} must be a whole number or None; found {shown(value)}.")


def check_factors(rule: Weighting, factors: Any, kind: str = "finite number", callables: bool = False) -> None:
    """Raises WeightingError unless ``factors`` maps names to numbers, or to functions if there may be."""
    if not isinstance(factors, Mapping):
        raise WeightingError(f"{type(rule).__name__} takes loss -> {kind}; found {shown(factors)}.")
    for name, w in factors.items():
        if not (callables and callable(w)) and not (is_number(w) and math.isfinite(w)):
            raise WeightingError(
                f"{type(rule).__name__}: the weight of {shown(name)} must be a {kind}; found {shown(w)}."
            )


def observed(seen: Seen) -> tuple[list[str], Tensor]:
    """The names of the n present losses, and their values ``[n]`` in at least float32."""
    if seen.losses is None:
        raise TypeError("this rule needs the losses")
    names = [name for name, here in zip(seen.names, seen.present, strict=True) if here]
    values = seen.losses.detach()
    values = values if values.element_size() >= 4 else values.float()
    if not names or len(names) == len(seen.names):
        return names, values[: len(names)]
    return names, torch.stack([value for value, here in zip(values.unbind(), seen.present, strict=True) if here])


def constant(values: Sequence[float], like: Tensor) -> Tensor:
    """``values`` as a tensor ``like`` the losses, without waiting for the GPU."""
    return torch.tensor(values, dtype=like.dtype).to(like.device, non_blocking=True)


def recalled(stored: Mapping[str, Tensor], names: Sequence[str], values: Tensor) -> Tensor:
    """What the state holds for ``names``, ``[n]`` like ``values``; 0 for a loss that is new."""
    absent = values.new_zeros(())
    held = [stored.get(name, absent) for name in names]
    if any([value.device != values.device for value in held]):  # as after loading a state from a file
        held = [value.to(values.device) for value in held]
    return torch.stack(held) if names else values


def stored(old: Mapping[str, Any], names: Sequence[str], values: Iterable[Any]) -> dict[str, Any]:
    """``old`` with the entries of ``names`` replaced by ``values`` ``[n]``."""
    return {**old, **dict(zip(names, values, strict=True))}


def spread(weights: Tensor, seen: Seen) -> Tensor:
    """The weights ``[n]`` of the present losses as weights ``[K]`` of all; 0 for an absent one."""
    if all(seen.present):
        return weights
    each, absent = iter(weights.unbind()), weights.new_zeros(())
    return torch.stack([next(each) if here else absent for here in seen.present])


def total(values: Tensor) -> Tensor:
    """The sum of ``values``, bit for bit the same in any order."""
    return values.sort().values.sum()


def softmax(scores: Tensor) -> Tensor:
    """Shares ``[n]`` of one, those of a permutation bit for bit the permuted ones."""
    limit = torch.finfo(scores.dtype).max / 4
    scores = scores.clamp(-limit, limit)
    shares = (scores - scores.max()).exp() if len(scores) else scores
    return shares / total(shares)


def ratio(losses: Tensor, before: Tensor) -> Tensor:
    """``losses / before``; 1 where ``before`` is not positive, so that there is nothing to compare with."""
    return torch.where(before > 0, losses / before, 1.0)


def towards(start: Tensor, step: Tensor, best: Tensor) -> Tensor:
    """``start + step``, but not past ``best``, nor away from it."""
    return (start + step).clamp(torch.minimum(start, best), torch.maximum(start, best))


def seeded(seed: int | None) -> dict[str, int]:
    """The state of a rule that draws numbers. Without a ``seed``, torch's own generator gives one."""
    return {"seed": int(torch.randint(2**62, ())) if seed is None else seed, "draws": 0}


def drawn(state: State) -> tuple[torch.Generator, dict[str, int]]:
    """A CPU generator for one draw, and the part of the state that the next draw starts from."""
    mixed = (state["seed"] * 0x9E3779B97F4A7C15 + state["draws"]) % 2**63
    return torch.Generator().manual_seed(mixed), {"seed": state["seed"], "draws": state["draws"] + 1}
