"""Cut: differentiate what each loss has for itself, once, and stop where the common part begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from cograd._graph import Node
from cograd.gramian._scope import Component, Entry, Scope

Spot = tuple[Node, int]  # a node and which of its outputs


@dataclass(frozen=True, slots=True)
class Cut:
    """What one pass over the private parts left behind.

    Attributes:
        scope: the graph.
        cotangents: the gradient of each loss with respect to itself; None for one.
        private: parameters of one loss and their gradients.
        spots: where the common part begins -> loss, by position -> the gradient that arrives there.
    """

    scope: Scope
    cotangents: Sequence[Tensor | None]
    private: Sequence[tuple[Tensor, Tensor]]
    spots: Mapping[Spot, Mapping[int, Tensor]]

    def inside(self, component: Component) -> dict[Spot, Mapping[int, Tensor]]:
        """The spots that belong to ``component``."""
        mine = set(component.losses)
        return {spot: arrived for spot, arrived in self.spots.items() if arrived and mine.issuperset(arrived)}

    def weighted(
        self, component: Component, weights: Sequence[float], keep: bool = False
    ) -> list[tuple[Tensor, Tensor]]:
        """One pass: parameters of ``component`` and the sum of their ``weights`` x gradients."""
        factor = dict(zip(component.losses, weights, strict=True))
        spots = self.inside(component)
        totals = [combined(list(arrived.values()), [factor[k] for k in arrived]) for arrived in spots.values()]
        return gradients(spots, totals, component.leaves, keep)

    def aside(self, component: Component) -> list[tuple[Tensor, Tensor]]:
        """One pass: the leaves that are not compared and the plain sum of their gradients. The graph stays."""
        return self._summed(self.inside(component)) if component.aside else []

    def rest(self) -> list[tuple[Tensor, Tensor]]:
        """The same, from where losses enter that share nothing else. The graph stays."""
        if not self.scope.aside:
            return []
        known = [spot for component in self.scope.components for spot in self.inside(component)]
        return self._summed({spot: arrived for spot, arrived in self.spots.items() if arrived and spot not in known})

    def _summed(self, spots: Mapping[Spot, Mapping[int, Tensor]]) -> list[tuple[Tensor, Tensor]]:
        totals = [combined(list(arrived.values()), [1.0] * len(arrived)) for arrived in spots.values()]
        return gradients(spots, totals, self.scope.aside, retain=True)


def cut(scope: Scope, cotangents: Sequence[Tensor | None]) -> Cut:
    """Run the private part of every loss in one pass.

    Hooks on the last private nodes take what would flow on, so that nothing of the common part runs.

    Args:
        scope: not blocked.
        cotangents: the gradient of each loss with respect to itself; None for one.
    """
    spots: dict[Spot, dict[int, Tensor]] = {}
    by_parent: dict[Node, list[Entry]] = {}
    for entry in scope.entries:
        spot = entry.edge.node, entry.edge.output_nr
        arrived = spots.setdefault(spot, {})
        if entry.parent is None:
            loss = list(scope.losses.values())[entry.loss]
            factor = cotangents[entry.loss]
            _add(arrived, entry.loss, torch.ones_like(loss) if factor is None else factor)
        else:
            by_parent.setdefault(entry.parent, []).append(entry)

    roots = [
        (loss, factor)
        for loss, factor, node in zip(scope.losses.values(), cotangents, scope.walk.roots, strict=True)
        if scope.users.get(node, 0).bit_count() == 1
    ]
    parameters = [leaf for leaf, _ in scope.private]
    inputs: Any = [*parameters, *(GradientEdge(*spot) for spot in spots)]
    if not roots or not inputs:
        return Cut(scope, cotangents, (), spots)
    hooks = [node.register_hook(_take(entries, spots)) for node, entries in by_parent.items()]
    try:
        found = torch.autograd.grad(
            [loss for loss, _ in roots],
            inputs,
            [factor for _, factor in roots],
            retain_graph=True,
            allow_unused=True,
        )
    finally:
        for hook in hooks:
            hook.remove()
    scope.passed()
    private = [(leaf, g) for leaf, g in zip(parameters, found, strict=False) if g is not None]
    return Cut(scope, cotangents, private, spots)


def _take(entries: Sequence[Entry], spots: Mapping[Spot, dict[int, Tensor]]) -> Any:
    """A hook that keeps the gradients of ``entries`` and lets nothing through there."""

    def hook(grad_inputs: Sequence[Tensor | None], _: Any) -> tuple[Tensor | None, ...]:
        passing = list(grad_inputs)
        for entry in entries:
            g = passing[entry.turn]
            if g is not None:
                _add(spots[entry.edge.node, entry.edge.output_nr], entry.loss, g)
                passing[entry.turn] = None
        return tuple(passing)

    return hook


def _add(arrived: dict[int, Tensor], loss: int, g: Tensor) -> None:
    arrived[loss] = arrived[loss] + g if loss in arrived else g


def gradients(
    spots: Mapping[Spot, Any], cotangents: Sequence[Tensor], leaves: Sequence[Tensor], retain: bool = False
) -> list[tuple[Tensor, Tensor]]:
    """``leaves`` that are reached from ``spots``, and their gradients."""
    if not spots:
        return []
    edges = [GradientEdge(*spot) for spot in spots]
    found = torch.autograd.grad(edges, leaves, cotangents, retain_graph=retain, allow_unused=True)
    return [(leaf, g) for leaf, g in zip(leaves, found, strict=True) if g is not None]


def combined(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The sum of ``weights`` x ``tensors``."""
    total = tensors[0] * weights[0]
    for t, w in zip(tensors[1:], weights[1:], strict=True):
        total = total.add_(t, alpha=w) if not (t.is_sparse or total.is_sparse) else total + t * w
    return total
