"""Carry the gradients of several losses through what they share: one by one, or side by side."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
    found: list[list[Tensor | None]] = []
    with _listening(wanted) as met:
        for k in component.losses:
            some = cut.down(k, component, wanted, retain=keep or k != component.losses[-1])
            found.append([met.pop(i, g) for i, g in enumerate(some)])
            cut.scope.passed()
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
    edges = [GradientEdge(*spot) for spot in inside]
    reached: list[bool] = []

    def carry(*arrived: Tensor) -> tuple[Tensor, ...]:
        with _listening(wanted) as met:
            found = torch.autograd.grad(edges, wanted, arrived, retain_graph=True, allow_unused=True)
        some = [met.pop(i, g) for i, g in enumerate(found)]
        cut.scope.passed()
        reached[:] = [g is not None for g in some]
        return tuple([g for g in some if g is not None])

    try:
        with warnings.catch_warnings():  # of an operation that torch takes loss by loss
            warnings.filterwarnings("ignore", message="There is a performance drop")
            rows: Any = [stacked([arrived.get(k) for k in component.losses]) for arrived in inside.values()]
            found = iter(torch.func.vmap(carry)(*rows))
            return [next(found) if here else None for here in reached]
    except RuntimeError:  # batching is to blame if one by one they pass
        cut.scope.passed()
        one_by_one(cut, component, wanted, keep=True)
        _REFUSED.add(first)
        return None


@contextmanager
def _listening(wanted: Sequence[Any]) -> Iterator[dict[int, Tensor]]:
    """What arrives at the edges among ``wanted``, by position, after the hooks that the user put on tensors.

    Autograd captures the gradient of a node that it goes on to run before such hooks, and of one
    where it ends after them. A hook of our own on the node runs after them, and only where it is run.
    """
    met: dict[int, Tensor] = {}
    places = [(i, edge) for i, edge in enumerate(wanted) if isinstance(edge, GradientEdge)]
    hooks = [edge.node.register_prehook(_note(met, i, edge.output_nr)) for i, edge in places]
    try:
        yield met
    finally:
        for hook in hooks:
            hook.remove()


def _note(met: dict[int, Tensor], i: int, turn: int) -> Any:
    def hook(arrived: Sequence[Tensor | None]) -> None:
        if (g := arrived[turn]) is not None:
            met[i] = g

    return hook


def stacked(rows: Sequence[Tensor | None]) -> Tensor | None:
    """``rows`` as one tensor ``[n, ...]``, with zeros where there is none; None if there is none at all."""
    if all([g is None for g in rows]):
        return None
    some = next(g for g in rows if g is not None)
    return torch.stack([torch.zeros_like(some) if g is None else g for g in rows])
