"""At: the Gramian of the gradients that arrive at a representation, instead of the parameters below it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from cograd.errors import WeightingError, shown
from cograd.gramian._carry import stacked
from cograd.gramian._cut import Cut
from cograd.gramian._engine import Engine, Measured
from cograd.gramian._gram import Gram, products
from cograd.gramian._scope import Component


@final
@dataclass(frozen=True, slots=True)
class At(Engine):
    """Compare the losses' gradients where they arrive at a representation z: ``dL_k/dz``.

    A proxy: these gradients can conflict where those on the parameters below do not, and the other
    way round. But it costs hardly more than a plain sum: the losses go their separate ways only
    down to z, and one weighted pass continues from there.

    Args:
        where: the name of a model, whose outputs are z (for ``Joint``), or z itself: a tensor, or
            several (for ``cograd.backward``).

    Raises:
        WeightingError: ``where`` is neither, or a tensor of it has no graph.

    >>> trunk, heads = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
    >>> z = trunk(torch.tensor([[1.0, 2.0]]))
    >>> report = cograd.backward(
    ...     {"a": z[0, 0], "b": z[0, 1] * 3}, weighting=cograd.weighting.MGDA(), gramian=At(z)
    ... )
    >>> report.gramian.matrix
    tensor([[1., 0.],
            [0., 9.]], dtype=torch.float64)
    """

    where: str | Tensor | Sequence[Tensor]

    def __post_init__(self) -> None:
        if isinstance(self.where, str):
            return
        where: Any = self.where
        tensors = (where,) if isinstance(where, Tensor) else tuple(where) if isinstance(where, Iterable) else ()
        if not tensors or not all(isinstance(t, Tensor) and t.requires_grad for t in tensors):
            raise WeightingError(
                "At takes the name of a model, or the representation itself: tensors with a graph; found "
                f"{shown(self.where)}."
            )
        object.__setattr__(self, "where", tensors)

    def measure(self, cut: Cut, component: Component, keep: bool = False) -> Measured:
        """See :class:`Engine`."""
        if isinstance(self.where, str):
            raise WeightingError(f"At({self.where!r}) names a model, which only a Joint has. Pass its output: At(z).")
        found = [get_gradient_edge(t) for t in self.where]
        edges = list({(edge.node, edge.output_nr): edge for edge in found}.values())
        inside = cut.inside(component)
        if inside.keys() == {(edge.node, edge.output_nr) for edge in edges}:
            arrived = [tuple(spot.get(k) for k in component.losses) for spot in inside.values()]
        else:
            losses = list(cut.scope.losses.items())
            found_by_loss = []
            for k in component.losses:
                found_by_loss.append(_down_to(edges, *losses[k], cut.cotangents[k]))
                cut.scope.passed()
            arrived = list(zip(*found_by_loss, strict=True))
        gram = Gram()
        for own in arrived:
            rows = stacked(own)
            if rows is not None:
                gram.add(partial(products, (rows if rows.element_size() >= 4 else rows.float()).flatten(1)))
        aside = cut.aside(component)
        return Measured(
            gram.done(len(component.losses)),
            lambda weights: cut.combine(component, weights, keep),
            "at",
            aside=aside,
        )


def _down_to(edges: Sequence[GradientEdge], name: str, loss: Tensor, factor: Tensor | None) -> Sequence[Tensor | None]:
    found = torch.autograd.grad(loss, edges, factor, retain_graph=True, allow_unused=True)
    if all([g is None for g in found]):
        raise WeightingError(
            f"loss {name!r} shares parameters with other losses, but does not reach the representation that At was "
            "given. Choose one that every such loss uses, or leave the engine to cograd: gramian=None."
        )
    return found
