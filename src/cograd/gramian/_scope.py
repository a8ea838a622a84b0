"""Scope: which parameters do losses share, and where does the graph of one loss enter what is shared?"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from cograd._cover import bits
from cograd._graph import Node, Walk, walk


@dataclass(frozen=True, slots=True)
class Entry:
    """Where gradient passes from what only one loss uses to what several use.

    Attributes:
        loss: the loss, by position.
        parent: the last node that only this loss uses; None if the loss itself is used by others.
        turn: which input of ``parent`` leads on.
        edge: where it leads.
    """

    loss: int
    parent: Node | None
    turn: int
    edge: GradientEdge


@dataclass(frozen=True, slots=True)
class Component:
    """Losses that share parameters, directly or through one another, and what they share.

    Attributes:
        losses: their positions.
        leaves: the parameters that at least two losses reach.
        nodes: where each of ``leaves`` is in the graph.
        reached: the losses that reach each of ``leaves``, as bit masks.
        aside: leaves that are not compared, and get the plain sum of the gradients of these losses.
    """

    losses: tuple[int, ...]
    leaves: tuple[Tensor, ...]
    nodes: tuple[Node, ...]
    reached: tuple[int, ...]
    aside: tuple[Tensor, ...] = ()


@dataclass(frozen=True, slots=True)
class Scope:
    """The graph of one step, divided into what one loss uses and what several use.

    A set of losses is a bit mask over their positions.

    Attributes:
        losses: name -> scalar that requires grad.
        walk: the graph below them.
        users: node -> the losses that pass gradient to it; only nodes above a parameter.
        private: the parameters that exactly one loss reaches.
        entries: empty if a loss must not train something that it reaches.
        components: one for each set of losses that share parameters.
        aside: leaves that several losses reach and that are not compared.
        blocked: whether a loss reaches a model that it must not train, so that gradients cannot
            be followed through a common graph.
        passed: to be called after each backward pass that may not be the last.
    """

    losses: Mapping[str, Tensor]
    walk: Walk
    users: Mapping[Node, int]
    private: tuple[tuple[Tensor, int], ...]
    entries: tuple[Entry, ...]
    components: tuple[Component, ...]
    aside: tuple[Tensor, ...]
    blocked: bool
    passed: Callable[[], None]


def reached_by(component: Component, loss: int) -> list[Tensor]:
    """The shared parameters that ``loss`` reaches."""
    return [leaf for leaf, mask in zip(component.leaves, component.reached, strict=True) if mask >> loss & 1]


class AllLeaves(dict[int, int]):
    """``id(parameter) -> group`` where every leaf gets a gradient, and there is one group.

    Args:
        parameters: the ids of those in which losses are compared; None for every leaf that is an
            ``nn.Parameter``, and for all leaves where none of those is shared.
    """

    def __init__(self, parameters: Collection[int] | None = None) -> None:
        super().__init__()
        self.parameters = parameters

    def get(self, key: int, default: object = None) -> int:
        """Group 0."""
        return 0

    def compared(self, leaves: Sequence[Tensor]) -> Sequence[Tensor]:
        """Those of the shared ``leaves`` that belong to a model. An input that requires grad is none."""
        if self.parameters is not None:
            return [leaf for leaf in leaves if id(leaf) in self.parameters]
        return [leaf for leaf in leaves if isinstance(leaf, nn.Parameter)] or leaves


def scope(
    losses: Mapping[str, Tensor],
    group_of: Mapping[int, int],
    routes: Sequence[int],
    passed: Callable[[], None] = lambda: None,
) -> Scope:
    """Look at the graph below ``losses``.

    Args:
        losses: name -> scalar that requires grad.
        group_of: ``id(parameter) -> group`` of models; other leaves are left alone.
        routes: the groups that each loss trains, as bit masks.
        passed: to be called after each backward pass that may not be the last.
    """
    found = walk(list(losses.values()), group_of)
    users: dict[Node, int] = {}
    for k, node in enumerate(found.roots):
        if found.groups[node]:
            users[node] = users.get(node, 0) | 1 << k
    leaves: list[tuple[Node, int]] = []
    entries: list[tuple[Node, int]] = []  # nodes of one loss, which may lead to shared ones
    for node in reversed(found.groups):  # from the losses down
        groups = found.groups[node]
        if not groups:
            continue
        mask = users[node]
        inputs = found.below[node]
        if not inputs:
            trained = sum(1 << k for k in bits(mask) if routes[k] & groups)
            if trained:
                leaves.append((node, trained))
            continue
        for n, _ in inputs:
            if n is not None and found.groups[n]:
                users[n] = users.get(n, 0) | mask
        if not mask & (mask - 1):
            entries.append((node, mask))

    blocked = any(found.groups[root] & ~route for root, route in zip(found.roots, routes, strict=True))
    shared = [(node, mask) for node, mask in leaves if mask & (mask - 1)]
    compared, aside = shared, ()
    if isinstance(group_of, AllLeaves) and shared:
        chosen = {id(leaf) for leaf in group_of.compared([node.variable for node, _ in shared])}
        compared = [(node, mask) for node, mask in shared if id(node.variable) in chosen]
        aside = tuple(node.variable for node, _ in shared if id(node.variable) not in chosen)
    return Scope(
        losses,
        found,
        users,
        tuple((node.variable, mask) for node, mask in leaves if not mask & (mask - 1)),
        () if blocked or not shared else tuple(_entries(found, users, losses, entries)),
        tuple(_components(compared, aside)),
        aside,
        blocked,
        passed,
    )


def _entries(
    found: Walk, users: Mapping[Node, int], losses: Mapping[str, Tensor], private: Sequence[tuple[Node, int]]
) -> list[Entry]:
    entries = []
    for k, (node, loss) in enumerate(zip(found.roots, losses.values(), strict=True)):
        if found.groups[node] and users[node] & (users[node] - 1):
            entries.append(Entry(k, None, 0, GradientEdge(node, loss.output_nr)))
    for node, mask in private:
        for turn, (n, slot) in enumerate(found.below[node]):
            if n is not None and found.groups[n] and users[n] != mask:
                entries.append(Entry(mask.bit_length() - 1, node, turn, GradientEdge(n, slot)))
    return entries


def _components(shared: Sequence[tuple[Node, int]], aside: tuple[Tensor, ...]) -> list[Component]:
    masks: list[int] = []
    for _, mask in shared:
        for touching in [m for m in masks if m & mask]:
            masks.remove(touching)
            mask |= touching
        masks.append(mask)
    components = []
    for whole in sorted(masks, key=bits):
        nodes, reached = zip(*((node, mask) for node, mask in shared if mask & whole), strict=True)
        leaves = tuple(node.variable for node in nodes)
        components.append(Component(tuple(bits(whole)), leaves, nodes, reached, aside))
    return components
