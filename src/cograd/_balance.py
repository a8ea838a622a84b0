"""Balance: gradients for a rule that looks at gradients, each loss weighted in what it shares with others."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cograd._caller import level_of_caller
from cograd._models import Statistics
from cograd._weights import Weights, cotangent, place
from cograd.errors import NonFiniteLossError, WeightingError, shown
from cograd.gramian import Gramian
from cograd.gramian._at import At
from cograd.gramian._automatic import Automatic
from cograd.gramian._cut import Cut
from cograd.gramian._engine import Engine, Gradients, Measured
from cograd.gramian._gramian import assembled
from cograd.gramian._rows import Rows, apart
from cograd.gramian._scope import scope
from cograd.weighting._stateful import Shared

WHOLE = {"abs", "jacobian"}  # what a rule can only see where the gradient of each loss is formed


@dataclass(frozen=True, slots=True)
class Balanced:
    """The outcome of one step.

    Attributes:
        gradients: parameters and their gradients. Tensors may share memory.
        weights: loss -> fixed factor x weight of the rule.
        gramian: of the unweighted losses; None if nothing is shared, or an earlier one was used.
        overflowed: whether a scaled gradient was infinite, so that there are neither gradients nor a Gramian.
    """

    gradients: Gradients
    weights: dict[str, float]
    gramian: Gramian | None
    overflowed: bool = False


@torch.no_grad()
def balance(
    losses: Mapping[str, Tensor],
    weights: Weights,
    step: int,
    group_of: Mapping[int, int],
    routes: Sequence[int],
    engine: Engine | None = None,
    keep: bool = False,
    statistics: Statistics | None = None,
    scale: float = 1.0,
) -> Balanced:
    """Differentiate ``losses`` under a rule that looks at gradients.

    A parameter that several losses train gets the sum of weight x gradient over exactly those; a
    parameter of one loss gets its plain gradient, and so does a leaf that is not compared. Fixed
    factors scale the losses before all that.

    Args:
        losses: name -> scalar that requires grad.
        weights: fixed factors, and the rule.
        step: batches seen before.
        group_of: ``id(parameter) -> group`` of models; others get no gradient.
        routes: the groups that each loss trains, as bit masks.
        engine: None for the cheapest exact one.
        keep: whether the graph is still needed afterwards.
        statistics: buffers that only the first backward pass may move.
        scale: multiplies the gradients, and what is not 1 may make them infinite. The rule does not see it.

    Raises:
        WeightingError: the rule finds no weights, or the engine cannot be used on this graph.
    """
    rule = weights.balance
    assert rule is not None
    own = weights.own(step)
    fixed = [own.get(name, 1.0) for name in losses]
    still = statistics or Statistics(())
    found = scope(losses, group_of, routes, still.passed)
    if not found.components and len(losses) > 1:
        _warn_nothing_shared(type(rule.rule).__name__)
    factors = [cotangent(loss, w * scale) for loss, w in zip(losses.values(), fixed, strict=True)]
    held = rule.held(losses)
    measured: list[Measured] = []
    directions: Sequence[Tensor] = ()
    if found.blocked:
        if isinstance(engine, At):
            raise WeightingError(
                "At needs a graph in which every loss trains all models that it reaches, and here one does not. Take "
                "gramian=cograd.gramian.Rows(), or give the models turns."
            )
        gradients, measured = apart(found, factors, keep)
    else:
        way = Cut(found, factors)
        if held:
            by_position = [held[name] for name in losses]
            gradients = [*way.plain(), *way.weighted(by_position, keep)]
        else:
            chosen = Rows() if rule.rule.needs & WHOLE else engine or Automatic()
            later = keep or bool(found.aside)  # what is not compared may unite sets of losses
            measured = [chosen.measure(way, part, later) for part in found.components]
            gradients = [*way.private, *way.rest()]
            for m in measured:
                gradients += m.aside

    names = tuple(losses)
    parts = [tuple(names[k] for k in part.losses) for part in found.components]
    if not all([np.isfinite(m.gramian.detach().numpy()).all() for m in measured]):
        still.settle()
        if scale == 1.0:
            raise NonFiniteLossError(_not_finite(parts, measured))
        return Balanced([], dict(zip(names, fixed, strict=True)), None, overflowed=True)
    if not held:
        scaled = {
            name: loss.detach() * w if w != 1 else loss.detach()
            for (name, loss), w in zip(losses.items(), fixed, strict=True)
        }
        needs, shared = rule.rule.needs, []
        for together, m in zip(parts, measured, strict=True):
            magnitudes = m.abs() / scale if "abs" in needs else None
            jacobian = m.jacobian() / scale if "jacobian" in needs else None
            shared.append(Shared(together, m.gramian / scale**2, magnitudes, jacobian))
        answer = rule.share(scaled, shared, step)
        held, directions = answer.weights, answer.directions
    for i, m in enumerate(measured):
        if directions:
            gradients += m.split(directions[i] * scale)
        else:
            gradients += m.combine([held[name] for name in parts[i]])
    still.settle()
    total = {name: w * held[name] for name, w in zip(names, fixed, strict=True)}
    known_factors = {name: w * scale for name, w in zip(names, fixed, strict=True)}
    return Balanced(gradients, total, _unscaled(parts, measured, known_factors))


@torch.no_grad()
def look(
    losses: Mapping[str, Tensor],
    group_of: Mapping[int, int],
    routes: Sequence[int],
    engine: Engine | None = None,
    scale: float = 1.0,
) -> Gramian | None:
    """The Gramian of ``losses``, whose graph stays as it is. Their gradients are multiplied by ``scale`` on the way."""
    found = scope(losses, group_of, routes)
    names, ones = tuple(losses), [cotangent(loss, scale) for loss in losses.values()]
    parts = [tuple(names[k] for k in part.losses) for part in found.components]
    if found.blocked:
        _, measured = apart(found, ones, keep=True)
    else:
        way = Cut(found, ones, parameters=False)
        measured = [(engine or Automatic()).measure(way, part, keep=True) for part in found.components]
    return _unscaled(parts, measured, dict.fromkeys(names, scale))


@torch.no_grad()
def deposit(gradients: Gradients) -> None:
    """Add to ``.grad``, as a backward pass does: a tensor of its own, laid out like the parameter."""
    used: set[int] = set()
    for leaf, g in gradients:
        if leaf.grad is not None:
            leaf.grad = leaf.grad + g if leaf.grad.is_sparse and not g.is_sparse else leaf.grad.add_(g)
        elif sys.getrefcount(g) > _MINE:
            leaf.grad = g.clone() if g.is_sparse else torch.empty_like(leaf).copy_(g)
        elif g.is_sparse:
            leaf.grad = g
        elif g.stride() != leaf.stride() or g.untyped_storage().data_ptr() in used:
            leaf.grad = torch.empty_like(leaf).copy_(g)
        else:
            leaf.grad = g
            used.add(g.untyped_storage().data_ptr())
        for hook in (getattr(leaf, "_post_accumulate_grad_hooks", None) or {}).values():
            hook(leaf)


_MINE = 3  # a tensor in a list of pairs and in one variable, as getrefcount sees it: nobody else holds it


def _unscaled(
    parts: Sequence[tuple[str, ...]], measured: Sequence[Measured], fixed: Mapping[str, float]
) -> Gramian | None:
    found = []
    for names, m in zip(parts, measured, strict=False):
        factors, raw = [fixed[name] for name in names], m.gramian
        if any([w != 1 for w in factors]):
            w = raw.new_tensor(factors)
            raw = raw / w / w[:, None]
        found.append((names, raw, m.how))
    return assembled(found)


def _not_finite(parts: Sequence[tuple[str, ...]], measured: Sequence[Measured]) -> str:
    found = [
        name
        for names, m in zip(parts, measured, strict=True)
        for name, square in zip(names, m.gramian.diagonal().tolist(), strict=True)
        if not math.isfinite(square)
    ]
    return f"the gradient of loss {found[0]!r} on what it shares is NaN or infinite, or its square overflows"


def _warn_nothing_shared(rule: str) -> None:
    warnings.warn(
        f"{rule} weighs what losses share, and these share no parameter, so every loss keeps its plain gradient. Leave "
        "the rule out, or look for a detach between the losses and the part that they should share.",
        stacklevel=level_of_caller(),
    )


def check_engine(engine: object, rules: Sequence[Weights], watch: bool = False) -> None:
    """Raises WeightingError unless ``engine`` is None, or an engine that ``rules`` or a ``watch`` can use."""
    if engine is None:
        return
    if not isinstance(engine, Engine):
        raise WeightingError(
            "gramian takes cograd.gramian.Rows(), Layerwise() or At(...), or None for the cheapest exact one; found "
            f"{shown(engine)}.{place(engine)}"
        )
    if not watch and not any(rule.shares for rule in rules):
        raise WeightingError(
            f"gramian={shown(engine)} says how to compare gradients, but there is no rule that looks at them. Leave it "
            "out, or choose one, such as weighting=cograd.weighting.UPGrad()."
        )
    for rule in rules:
        if isinstance(engine, At) and rule.balance and rule.balance.rule.needs & WHOLE:
            raise WeightingError(
                f"gramian=At(...) compares gradients at a representation, and {rule.name} needs those of the "
                "parameters themselves. Leave gramian out, or choose another rule."
            )
