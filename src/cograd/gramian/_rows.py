"""Rows: one backward pass per loss through what they share, whatever it is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from cograd.gramian._cut import Cut, combined, gradients, reached_by
from cograd.gramian._engine import Engine, Gradients, Gram, Measured, stacked, weighted_rows
from cograd.gramian._scope import Component, Scope


@final
@dataclass(frozen=True, slots=True)
class Rows(Engine):
    """Keep the gradient of every loss on the shared parameters: exact, for any graph.

    Costs one backward pass per loss through the shared part, and the memory of as many gradients.
    The cheapest where a layer sees many rows (batch x positions) against its width: convolutions,
    transformers with many tokens.

    >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> report = cograd.backward(
    ...     {"a": x[0] - x[1], "b": x.sum()}, weighting=cograd.weighting.MGDA(), gramian=Rows()
    ... )
    >>> report.gramian.matrix
    tensor([[2., 0.],
            [0., 2.]], dtype=torch.float64)
    """

    def measure(self, cut: Cut, component: Component, keep: bool = False) -> Measured:
        """See :class:`Engine`."""
        inside = cut.inside(component)
        rows = []
        for k in component.losses:
            mine = {spot: arrived[k] for spot, arrived in inside.items() if k in arrived}
            later = keep or k != component.losses[-1]
            rows.append(dict(gradients(mine, list(mine.values()), reached_by(component, k), later)))
        return measured(component, rows)


def apart(scope: Scope, cotangents: Sequence[Tensor | None], keep: bool) -> tuple[Gradients, list[Measured]]:
    """One backward pass per loss through all of its graph, for graphs with forbidden routes.

    Returns:
        The gradients of parameters that one loss trains, and what was found of each component.
    """
    private: Gradients = []
    rows: list[dict[Tensor, Tensor]] = []
    for k, (loss, factor) in enumerate(zip(scope.losses.values(), cotangents, strict=True)):
        own = [leaf for leaf, mask in scope.private if mask == 1 << k]
        leaves = own + [p for c in scope.components for p in reached_by(c, k)]
        later = keep or k < len(scope.losses) - 1
        found = torch.autograd.grad(loss, leaves, factor, retain_graph=later, allow_unused=True) if leaves else ()
        arrived = [(p, g) for p, g in zip(leaves, found, strict=True) if g is not None]
        private += arrived[: sum(g is not None for g in found[: len(own)])]
        rows.append(dict(arrived))
    return private, [measured(c, [rows[k] for k in c.losses]) for c in scope.components]


def measured(component: Component, rows: Sequence[dict[Tensor, Tensor]]) -> Measured:
    """What follows from each loss's gradients by parameter, which are taken out of ``rows``."""
    gram = Gram(len(rows), component.leaves[0].device)
    dense: list[tuple[Tensor, Tensor]] = []
    sparse: list[tuple[Tensor, list[Tensor | None]]] = []
    for leaf in component.leaves:
        own = [row.pop(leaf, None) for row in rows]
        if any([g is not None and g.is_sparse for g in own]):
            sparse.append((leaf, own))
            gram.add(stacked([None if g is None else g.to_dense() for g in own], leaf))
        else:
            dense.append((leaf, stacked(own, leaf)))
            gram.add(dense[-1][1])

    def combine(weights: Sequence[float]) -> Gradients:
        return weighted_rows(dense, weights) + [(leaf, _sum(own, weights)) for leaf, own in sparse]

    return Measured(gram.done(), combine, "rows", () if sparse else dense)


def _sum(rows: Sequence[Tensor | None], weights: Sequence[float]) -> Tensor:
    pairs = [(g, w) for g, w in zip(rows, weights, strict=True) if g is not None]
    return combined([g for g, _ in pairs], [w for _, w in pairs])
