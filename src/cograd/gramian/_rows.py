"""Rows: one backward pass per loss through what they share, whatever it is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from cograd.gramian._carry import stacked
from cograd.gramian._cut import Cut
from cograd.gramian._engine import Engine, Gradients, Measured
from cograd.gramian._measure import measure, of_rows
from cograd.gramian._scope import Component, Scope, reached_by


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
        return measure(cut, component, (), batched=False, keep=keep)


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
        scope.passed()
        arrived = [(p, g) for p, g in zip(leaves, found, strict=True) if g is not None]
        private += arrived[: sum(g is not None for g in found[: len(own)])]
        rows.append(dict(arrived))
    return private, [
        of_rows(c, [stacked([rows[k].pop(leaf, None) for k in c.losses]) for leaf in c.leaves])
        for c in scope.components
    ]
