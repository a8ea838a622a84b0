"""Cut: differentiate what each loss has for itself, once, and stop where the common part begins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from cograd._graph import Node
from cograd.gramian._scope import Component, Entry, Scope

Spot = tuple[Node, int]  # a node and which of its outputs


class Cut:
    """The gradients of one step, taken piece by piece. Each private part is run once, when it is first needed.

    Args:
        scope: the graph, not blocked.
        cotangents: the gradient of each loss with respect to itself; None for one.
        parameters: whether gradients of the parameters of one loss are wanted too.
    """

    def __init__(self, scope: Scope, cotangents: Sequence[Tensor | None], parameters: bool = True) -> None:
        self.scope = scope
        self.cotangents = cotangents
        self._losses = list(scope.losses.values())
        self._own = scope.private if parameters else ()
        self._ahead = set(range(len(self._losses)))  # losses whose private part has not been run
        self._private: list[tuple[Tensor, Tensor]] = []
        self._spots: dict[Spot, dict[int, Tensor]] = {}

    @property
    def private(self) -> Sequence[tuple[Tensor, Tensor]]:
        """The parameters of one loss and their gradients."""
        self._run()
        return self._private

    @property
    def spots(self) -> Mapping[Spot, Mapping[int, Tensor]]:
        """Where the common part begins -> loss, by position -> the gradient that arrives there."""
        self._run()
        return self._spots

    def inside(self, component: Component) -> dict[Spot, Mapping[int, Tensor]]:
        """The spots that belong to ``component``."""
        mine = set(component.losses)
        return {spot: arrived for spot, arrived in self.spots.items() if arrived and mine.issuperset(arrived)}

    def down(self, loss: int, component: Component, wanted: Sequence[Any], retain: bool) -> Sequence[Tensor | None]:
        """One pass: the gradient of one loss at each of ``wanted``, parameters or edges in the common part."""
        if loss not in self._ahead:
            mine = {spot: arrived[loss] for spot, arrived in self.inside(component).items() if loss in arrived}
            edges = [GradientEdge(*spot) for spot in mine]
            return torch.autograd.grad(edges, wanted, list(mine.values()), retain_graph=retain, allow_unused=True)
        self._ahead.discard(loss)
        own = self._parameters(1 << loss)
        root, factor = self._losses[loss], self.cotangents[loss]
        found = torch.autograd.grad(root, [*own, *wanted], factor, retain_graph=retain, allow_unused=True)
        self._keep(own, found)
        return found[len(own) :]

    def combine(
        self, component: Component, weights: Sequence[float], keep: bool = False
    ) -> list[tuple[Tensor, Tensor]]:
        """One pass from the spots: parameters of ``component`` and the sum of their ``weights`` x gradients."""
        factor = dict(zip(component.losses, weights, strict=True))
        spots = self.inside(component)
        totals = [combined(list(arrived.values()), [factor[k] for k in arrived]) for arrived in spots.values()]
        return gradients(spots, totals, component.leaves, keep)

    def weighted(self, weights: Sequence[float], keep: bool = False) -> list[tuple[Tensor, Tensor]]:
        """One pass for all, where the weights are known: a gradient is multiplied where it enters the common part.

        Returns:
            All parameters, and their gradients; of what losses share, the sum of ``weights`` x gradients.
        """
        roots = list(self.cotangents)
        by_parent: dict[Node, list[Entry]] = {}
        for entry in self.scope.entries:
            if entry.parent is not None:
                by_parent.setdefault(entry.parent, []).append(entry)
            elif weights[entry.loss] != 1:
                like, factor = self._losses[entry.loss], roots[entry.loss]
                roots[entry.loss] = (torch.ones_like(like) if factor is None else factor) * weights[entry.loss]
        shared = [leaf for component in self.scope.components for leaf in component.leaves]
        leaves = [*self._parameters(-1), *shared]
        if not leaves:
            return []
        with _hooked({node: _scale(entries, weights) for node, entries in by_parent.items()}):
            found = torch.autograd.grad(self._losses, leaves, roots, retain_graph=keep, allow_unused=True)
        self.scope.passed()
        return [(leaf, g) for leaf, g in zip(leaves, found, strict=True) if g is not None]

    def plain(self) -> list[tuple[Tensor, Tensor]]:
        """One pass: the leaves that are not compared and the plain sum of their gradients. The graph stays."""
        leaves = self.scope.aside
        if not leaves:
            return []
        found = torch.autograd.grad(self._losses, leaves, self.cotangents, retain_graph=True, allow_unused=True)
        self.scope.passed()
        return [(leaf, g) for leaf, g in zip(leaves, found, strict=True) if g is not None]

    def aside(self, component: Component) -> list[tuple[Tensor, Tensor]]:
        """The same of the losses of ``component``, from the spots."""
        return self._summed(self.inside(component)) if component.aside else []

    def rest(self) -> list[tuple[Tensor, Tensor]]:
        """The same, from where losses enter that share nothing else."""
        if not self.scope.aside:
            return []
        known = [spot for component in self.scope.components for spot in self.inside(component)]
        return self._summed({spot: arrived for spot, arrived in self.spots.items() if arrived and spot not in known})

    def _summed(self, spots: Mapping[Spot, Mapping[int, Tensor]]) -> list[tuple[Tensor, Tensor]]:
        totals = [combined(list(arrived.values()), [1.0] * len(arrived)) for arrived in spots.values()]
        return gradients(spots, totals, self.scope.aside, retain=True)

    def _parameters(self, losses: int) -> list[Tensor]:
        """The private parameters of ``losses``, a bit mask."""
        return [leaf for leaf, mask in self._own if mask & losses]

    def _keep(self, parameters: Sequence[Tensor], found: Sequence[Tensor | None]) -> None:
        self._private += [(leaf, g) for leaf, g in zip(parameters, found, strict=False) if g is not None]

    def _run(self) -> None:
        """Run the private parts that have not been run, in one pass.

        Hooks on the last private nodes take what would flow on, so that nothing of the common part runs.
        """
        if not self._ahead:
            return
        ahead, self._ahead = self._ahead, set()
        by_parent: dict[Node, list[Entry]] = {}
        for entry in self.scope.entries:
            if entry.loss not in ahead:
                continue
            arrived = self._spots.setdefault((entry.edge.node, entry.edge.output_nr), {})
            if entry.parent is None:
                factor = self.cotangents[entry.loss]
                _add(arrived, entry.loss, torch.ones_like(self._losses[entry.loss]) if factor is None else factor)
            else:
                by_parent.setdefault(entry.parent, []).append(entry)

        users = self.scope.users
        roots = [k for k in sorted(ahead) if users.get(self.scope.walk.roots[k], 0).bit_count() == 1]
        parameters = self._parameters(sum(1 << k for k in ahead))
        inputs: Any = [*parameters, *(GradientEdge(*spot) for spot in self._spots)]
        if not roots or not inputs:
            return
        with _hooked({node: _take(entries, self._spots) for node, entries in by_parent.items()}):
            found = torch.autograd.grad(
                [self._losses[k] for k in roots],
                inputs,
                [self.cotangents[k] for k in roots],
                retain_graph=True,
                allow_unused=True,
            )
        self.scope.passed()
        self._keep(parameters, found)


@contextmanager
def _hooked(hooks: Mapping[Node, Any]) -> Iterator[None]:
    """These hooks are on their nodes meanwhile."""
    handles = [node.register_hook(hook) for node, hook in hooks.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _take(entries: Sequence[Entry], spots: Mapping[Spot, dict[int, Tensor]]) -> Any:
    """A hook that keeps the gradients of ``entries`` and lets zeros through there.

    Where a pass ends, autograd calls the hooks of the tensor that it ends at. None is what no hook expects.
    """

    def hook(grad_inputs: Sequence[Tensor | None], _: Any) -> tuple[Tensor | None, ...]:
        passing = list(grad_inputs)
        for entry in entries:
            g = passing[entry.turn]
            if g is not None:
                arrived = spots[entry.edge.node, entry.edge.output_nr]
                passing[entry.turn] = None if arrived else torch.zeros_like(g)
                _add(arrived, entry.loss, g)
        return tuple(passing)

    return hook


def _scale(entries: Sequence[Entry], weights: Sequence[float]) -> Any:
    """A hook that multiplies the gradients of ``entries``."""

    def hook(grad_inputs: Sequence[Tensor | None], _: Any) -> tuple[Tensor | None, ...]:
        passing = list(grad_inputs)
        for entry in entries:
            g = passing[entry.turn]
            if g is not None and weights[entry.loss] != 1:
                passing[entry.turn] = g * weights[entry.loss]
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
