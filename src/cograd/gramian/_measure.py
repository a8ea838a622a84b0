"""Measure: carry the losses through what they share, and add up what each parameter has to say."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from cograd.gramian._carry import one_by_one, side_by_side
from cograd.gramian._cut import Cut
from cograd.gramian._engine import Gradients, Measured
from cograd.gramian._gram import Coefficients, Gram, coefficients, products, total
from cograd.gramian._layers import Layer
from cograd.gramian._scope import Component
from cograd.gramian._uses import Use


def measure(cut: Cut, component: Component, layers: Sequence[Layer], batched: bool, keep: bool) -> Measured:
    """The Gramian of ``component``.

    Args:
        cut: the gradients that arrive at the common part.
        component: losses and the parameters that they share.
        layers: the parameters whose gradients are not formed. They are used up.
        batched: carry the losses side by side, if that can be done.
        keep: whether the graph is still needed afterwards.
    """
    n = len(component.losses)
    layers = [layer for layer in layers if layer.look()]
    known = {id(leaf) for layer in layers for leaf in layer.leaves}
    formed = [leaf for leaf in component.leaves if id(leaf) not in known]
    nodes = list(dict.fromkeys(use.node for layer in layers for use in layer.uses))
    wanted: list[Any] = [*(GradientEdge(node, 0) for node in nodes), *formed, *component.aside]

    found = side_by_side(cut, component, wanted) if batched else None
    how = "layer by layer" if layers else "row by row"
    if found is None:
        found = one_by_one(cut, component, wanted, keep)
    else:
        how += ", side by side"
    arrived = dict(zip(nodes, found, strict=False))
    gram = Gram()
    compared = len(nodes) + len(formed)
    rows = _rows(gram, formed, found[len(nodes) : compared])
    aside = [(x, _summed(g)) for x, g in zip(component.aside, found[compared:], strict=True) if g is not None]
    del found
    reached = []
    for layer in layers:
        if any([arrived[use.node] is not None for use in layer.uses]):
            layer.add(gram, [_at(use, arrived[use.node], n) for use in layer.uses])
            reached.append(layer)
    return _measured(gram.done(n), rows, reached, how, aside)


def of_rows(component: Component, rows: Sequence[Tensor | None]) -> Measured:
    """What follows from the gradients ``[n, ...]`` of each of the parameters of ``component``."""
    gram = Gram()
    kept = _rows(gram, component.leaves, rows)
    return _measured(gram.done(len(component.losses)), kept, (), "row by row")


def _at(use: Use, arrived: Tensor | None, n: int) -> Tensor:
    """What arrives at ``use`` as ``[n, rows, out]``."""
    if arrived is None:
        kind = use.node._input_metadata[0]
        return torch.zeros(n, use.rows, use.shape[-1], dtype=kind.dtype, device=kind.device)
    return arrived.flatten(1, -2)


def _rows(gram: Gram, leaves: Sequence[Tensor], found: Sequence[Tensor | None]) -> list[tuple[Tensor, Tensor]]:
    rows = []
    for leaf, g in zip(leaves, found, strict=True):
        if g is not None:
            own = g.coalesce() if g.is_sparse else _flat(g)
            gram.add(partial(_products, own))
            rows.append((leaf, own))
    return rows


def _summed(rows: Tensor) -> Tensor:
    return torch.sparse.sum(rows, 0) if rows.is_sparse else rows.sum(0)


def _products(rows: Tensor, precision: torch.dtype | None) -> Tensor:
    return products(_flat(rows.to_dense()) if rows.is_sparse else rows, precision)


def _flat(rows: Tensor) -> Tensor:
    return (rows if rows.element_size() >= 4 else rows.float()).reshape(len(rows), -1)


def _measured(
    gramian: Tensor,
    rows: list[tuple[Tensor, Tensor]],
    layers: Sequence[Layer],
    how: str,
    aside: Gradients | None = None,
) -> Measured:
    def combine(weights: Sequence[float]) -> Gradients:
        like = coefficients(weights)
        found: Gradients = []
        for layer in layers:
            found += layer.gradients(like)
        while rows:  # the memory of one parameter's rows is free for the next gradient
            leaf, r = rows.pop()
            found.append((leaf, _combined(leaf, r, like)))
        return [(leaf, g.to(leaf.dtype)) for leaf, g in found]

    return Measured(gramian, combine, how, () if layers else rows, aside or [])


def _combined(leaf: Tensor, rows: Tensor, like: Coefficients) -> Tensor:
    if not rows.is_sparse:
        return total(rows, like).view_as(leaf)
    loss, *place = rows.indices()
    values = rows.values()
    values = values * like(values)[loss].view(-1, *(1,) * (values.dim() - 1))
    return torch.sparse_coo_tensor(torch.stack(place), values, leaf.shape, check_invariants=False).coalesce()
