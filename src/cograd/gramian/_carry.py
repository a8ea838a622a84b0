"""Carry the gradients of several losses through what they share: one by one, or side by side."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import GradientEdge

from cograd.gramian._cut import Cut
from cograd.gramian._scope import Component

_REFUSED: set[int] = set()  # shared parts that could not be batched, by their first parameter


def one_by_one(cut: Cut, component: Component, wanted: Sequence[Any], keep: bool) -> list[Tensor | None]:
    """What arrives at each of ``wanted``, parameters or edges, as ``[n, ...]``, in one pass per loss."""
    inside = cut.inside(component)
    found: list[tuple[Tensor | None, ...]] = []
    for k in component.losses:
        mine = {spot: arrived[k] for spot, arrived in inside.items() if k in arrived}
        later = keep or k != component.losses[-1]
        edges = [GradientEdge(*spot) for spot in mine]
        some = torch.autograd.grad(edges, wanted, list(mine.values()), retain_graph=later, allow_unused=True)
        found.append(some)
    columns = [[row[i] for row in found] for i in range(len(wanted))]
    del found
    return [stacked(columns.pop(0)) for _ in wanted]


def side_by_side(cut: Cut, component: Component, wanted: Sequence[Any]) -> list[Tensor | None] | None:
    """What arrives at each of ``wanted``, in one pass of tensors with one more dimension. The graph stays.

    None for a graph that cannot be batched: with an autograd Function of Python or a compiled
    module in it, or one that failed before.
    """
    first = id(component.leaves[0])
    if first in _REFUSED or any([isinstance(n, BackwardCFunction) and m & (m - 1) for n, m in cut.scope.users.items()]):
        return None
    inside = cut.inside(component)
    try:
        with warnings.catch_warnings():  # of an operation that torch takes loss by loss
            warnings.filterwarnings("ignore", message="There is a performance drop")
            return list(
                torch.autograd.grad(
                    [GradientEdge(*spot) for spot in inside],
                    wanted,
                    [stacked([arrived.get(k) for k in component.losses]) for arrived in inside.values()],
                    retain_graph=True,
                    allow_unused=True,
                    is_grads_batched=True,
                )
            )
    except RuntimeError:  # batching is to blame if one by one they pass
        one_by_one(cut, component, wanted, keep=True)
        _REFUSED.add(first)
        return None


def stacked(rows: Sequence[Tensor | None]) -> Tensor | None:
    """``rows`` as one tensor ``[n, ...]``, with zeros where there is none; None if there is none at all."""
    if all([g is None for g in rows]):
        return None
    some = next(g for g in rows if g is not None)
    return torch.stack([torch.zeros_like(some) if g is None else g for g in rows])
