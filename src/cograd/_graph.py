"""Walk the autograd graph of this step: which groups of parameters does each loss reach?"""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction

Node = Any  # torch.autograd.graph.Node, whose attributes differ by operation
Path = tuple[int, ...]  # which input to follow at each node, from a loss down to a parameter


@dataclass(frozen=True, slots=True)
class Walk:
    """The nodes below several losses. A set of groups is a bit mask.

    It over-approximates: a custom Function that returns None, or a compiled region, which is one
    node, counts as passing gradient to all of its inputs.

    Attributes:
        roots: the node of each loss.
        groups: node -> the groups of which a parameter lies below it.
        below: node -> the nodes that it passes gradient to; empty for a leaf.
    """

    roots: tuple[Node, ...]
    groups: Mapping[Node, int]
    below: Mapping[Node, tuple[tuple[Node | None, int], ...]]

    def reach(self, loss: int) -> int:
        """The groups of which ``loss`` reaches at least one parameter."""
        return self.groups[self.roots[loss]]

    def path(self, loss: int, group: int) -> Path:
        """The shortest way from ``loss`` down to a parameter of ``group``, which it reaches."""
        paths: dict[Node, Path] = {self.roots[loss]: ()}
        queue = deque(paths)
        while inputs := self.below[node := queue.popleft()]:
            for turn, (n, _) in enumerate(inputs):
                if n is not None and n not in paths and self.groups[n] & (1 << group):
                    paths[n] = (*paths[node], turn)
                    queue.append(n)
        return paths[node]

    def executed(self, losses: Sequence[int], groups: int) -> Iterator[Node]:
        """The operations that a backward pass from ``losses`` to ``groups`` runs, leaves excluded."""
        seen = set()
        stack = [self.roots[k] for k in losses]
        while stack:
            node = stack.pop()
            if node not in seen and self.groups[node] & groups and self.below[node]:
                seen.add(node)
                yield node
                stack += [n for n, _ in self.below[node] if n is not None]

    def custom(self) -> Iterator[Node]:
        """The nodes of Python autograd Functions: checkpoints, compiled regions, the user's own."""
        return (node for node in self.groups if isinstance(node, BackwardCFunction))

    def strays(self, known: Container[int]) -> Iterator[Tensor]:
        """The trainable ``nn.Parameter`` leaves whose id is not ``known``."""
        for node, below in self.below.items():
            leaf = None if below else getattr(node, "variable", None)
            if isinstance(leaf, torch.nn.Parameter) and id(leaf) not in known:
                yield leaf


def walk(losses: Sequence[Tensor], group_of: Mapping[int, int]) -> Walk:
    """Visit every node below ``losses`` once.

    Args:
        losses: scalars that require grad.
        group_of: ``id(parameter) -> group``, a small number.
    """
    roots = tuple(map(root, losses))
    groups: dict[Node, int] = {}
    below: dict[Node, Any] = {}
    stack: list[Node] = list(roots)
    while stack:
        node = stack.pop()
        if node is None:  # the marker above a node whose inputs are all done
            node, mask = stack.pop(), 0
            for n, _ in below[node]:
                if n is not None:
                    mask |= groups[n]
            groups[node] = mask
        elif node not in below:
            below[node] = inputs = node.next_functions
            if inputs:
                stack += (node, None)
                for n, _ in inputs:
                    if n is not None:
                        stack.append(n)
            else:
                leaf = getattr(node, "variable", None)
                group = None if leaf is None else group_of.get(id(leaf))
                groups[node] = 0 if group is None else 1 << group
    return Walk(roots, groups, below)


def leads(loss: Tensor, path: Path, group: int, group_of: Mapping[int, int]) -> bool:
    """Does ``path`` lead from this step's ``loss`` to a parameter of ``group``?

    A path found in an earlier graph proves the same fact of a new graph in a fraction of a walk.
    """
    node = root(loss)
    for turn in path:
        inputs = node.next_functions
        if turn >= len(inputs) or (node := inputs[turn][0]) is None:
            return False
    return group_of.get(id(getattr(node, "variable", None))) == group


def root(loss: Tensor) -> Node:
    """The node where differentiation of ``loss`` starts (a leaf has no grad_fn, but has one too)."""
    return loss.grad_fn or torch.autograd.graph.get_gradient_edge(loss).node


def sequence() -> int:
    """The number that the next node of this thread's graph gets: nodes with a smaller one were made before."""
    return int(torch.autograd._get_sequence_nr())  # type: ignore[attr-defined]
