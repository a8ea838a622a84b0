"""Clipping: bound the gradient of a model, or of several together, before its optimizer steps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from cograd._routes import names_in
from cograd.errors import OptimizerError, quoted, report, shown, unknown


@final
@dataclass(frozen=True, slots=True)
class Clip:
    """Bound a gradient, by its norm or each of its numbers. A plain number means ``Clip(norm=number)``.

    Args:
        norm: scale the gradient down where its norm is larger.
        value: bring each number of the gradient into [-value, value].
        kind: of the norm: 2 for the Euclidean one, ``math.inf`` for the largest number.

    Raises:
        OptimizerError: not exactly one of ``norm`` and ``value`` is given, or one is not positive.

    >>> Clip(value=0.5)
    Clip(norm=None, value=0.5, kind=2.0)
    """

    norm: float | None = None
    value: float | None = None
    kind: float = 2.0

    def __post_init__(self) -> None:
        if (self.norm is None) == (self.value is None):
            found = "neither" if self.norm is None else "both"
            raise OptimizerError(
                f"Clip takes either norm or value, as in Clip(norm=1.0) or Clip(value=0.5); found {found}."
            )
        for name in ("norm", "value", "kind"):
            bound = getattr(self, name)
            if bound is not None and not (_number(bound) and bound > 0):
                raise OptimizerError(f"Clip({name}=...) must be a positive number; found {shown(bound)}.")


Clips = float | Clip | Mapping[Any, float | Clip]  # a name, or a tuple of them; the type of a key is invariant


def parse_clips(clip: Any, models: Sequence[str]) -> dict[tuple[str, ...], Clip]:
    """The models that are clipped together -> how.

    Args:
        clip: a bound for each model by itself, or name or names -> bound for those together.
        models: the names that exist.

    Raises:
        OptimizerError: lists every entry that does not hold.
    """
    if clip is None:
        return {}
    if not isinstance(clip, Mapping):
        if (how := _how(clip)) is None:
            raise OptimizerError(
                "clip must be a positive number or cograd.Clip(...), or model -> one of them, as in "
                f"{{{next(iter(models), 'gen')!r}: 1.0}}; found {shown(clip)}."
            )
        return {(name,): how for name in models}
    found: dict[tuple[str, ...], Clip] = {}
    problems = []
    for key, bound in clip.items():
        if (how := _how(bound)) is None:
            problems.append(f"clip[{shown(key)}] must be a positive number or cograd.Clip(...); found {shown(bound)}.")
            continue
        names = names_in(key) or ()
        if not names:
            problems.append(f"clip maps names of models, or tuples of them, to bounds; found the key {shown(key)}.")
        problems += [
            f"clip[{shown(key)}] names no model. {unknown('models', name, models)}"
            for name in names
            if name not in models
        ]
        found[names] = how
    named = [name for names in found for name in names]
    if twice := [name for name in models if named.count(name) > 1]:
        problems.append(f"clip names {quoted(twice)} more than once, and a gradient is clipped once.")
    if problems:
        raise OptimizerError(report(list(dict.fromkeys(problems))))
    return found


def _how(bound: Any) -> Clip | None:
    if isinstance(bound, Clip):
        return bound
    return Clip(norm=bound) if _number(bound) and bound > 0 else None


@torch.no_grad()
def gradient_norm(parameters: Iterable[Tensor], kind: float = 2.0) -> Tensor:
    """The norm of all gradients of ``parameters`` as one vector."""
    return get_total_norm(gradient_values(parameters), kind)


@torch.no_grad()
def clip_gradients(parameters: Iterable[Tensor], clip: Clip, norm: Tensor | None) -> None:
    """Bound the gradients in place.

    Args:
        parameters: those whose gradients are taken together.
        clip: how.
        norm: their norm, if it is that which is bounded.
    """
    gradients = gradient_values(parameters)
    if clip.value is not None:
        torch._foreach_clamp_min_(gradients, -clip.value)
        torch._foreach_clamp_max_(gradients, clip.value)
    elif norm is not None and clip.norm is not None:
        factor = torch.clamp(clip.norm / (norm + 1e-6), max=1.0)
        for g in gradients:
            g.mul_(factor.to(g.device))


def gradient_values(parameters: Iterable[Tensor]) -> list[Tensor]:
    """The numbers of each gradient, to be changed in place. Sparse gradients are coalesced."""
    found = []
    for p in parameters:
        if p.grad is not None:
            if p.grad.is_sparse:
                p.grad = p.grad.coalesce()
            found.append(p.grad._values() if p.grad.is_sparse else p.grad)
    return found


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)
