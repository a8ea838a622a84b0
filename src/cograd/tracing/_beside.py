"""Gradients that are taken beside those of the script, where that leaves no trace in its results.

An extra pass through a graph runs what hangs on it: hooks, custom Functions, checkpoints. Where there is anything that
the script could notice, no pass is made, and the reason is told.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import GradientEdge

from cograd._random import random_state, replayed
from cograd.tracing import _nodes
from cograd.tracing._values import Values, below

_TOUCHED = "cograd.touched"
_MANY = 20_000


Edges = Sequence[Tensor] | Sequence[GradientEdge]


@dataclass(frozen=True, slots=True)
class Graph:
    """What lies below a loss.

    Attributes:
        leaves: the tensors that it is differentiated for.
        obstacle: why no extra pass may be made; empty if one may.
    """

    leaves: tuple[Tensor, ...]
    obstacle: str


def touched(node: _nodes.Node) -> None:
    """The script holds this node in its hands, or has put a hook on its tensor."""
    node.metadata[_TOUCHED] = True


def followed(values: Values, roots: Iterable[int | None]) -> bool:
    """Whether the tape holds all that ``roots`` were computed from, so that it has seen every hook there."""
    return all(i is not None and not any(v.op == "unseen" for v in below(values, i)) for i in roots)


def look(roots: Sequence[Tensor]) -> Graph:
    """Visit the graph below ``roots``, without running anything."""
    leaves = []
    obstacle = _around()
    for i, node in enumerate(_nodes.nodes(roots)):
        leaf = getattr(node, "variable", None)
        if isinstance(leaf, Tensor):
            leaves.append(leaf)
        obstacle = obstacle or _at(node, leaf)
        if i >= _MANY:
            obstacle = "a graph is very large"
            break
    return Graph(tuple(leaves), obstacle)


def _around() -> str:
    if torch.is_anomaly_enabled():
        return "anomaly detection is on"
    if torch._C._len_torch_dispatch_stack() or torch._C._functorch.peek_interpreter_stack() is not None:
        return "a mode or a transform is active"
    if torch._C._autograd._profiler_enabled():
        return "a profiler is active"
    if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
        return "a CUDA graph is being captured"
    return ""


def _at(node: _nodes.Node, leaf: Tensor | None) -> str:
    if isinstance(node, BackwardCFunction) or "CppNode" in type(node).__name__:
        return "a custom autograd Function, a compiled region or a checkpoint is in the graph"
    if node.metadata.get(_TOUCHED) or (leaf is not None and leaf._backward_hooks):
        return "there are hooks on the graph"
    if leaf is not None and type(leaf) not in (Tensor, nn.Parameter):
        return f"a parameter is a {type(leaf).__name__}"
    return "saved tensors have hooks, as with checkpoints" if _nodes.has_saved_hooks(node) else ""


def gradients(
    outputs: Edges, inputs: Edges, arriving: Sequence[Tensor | None] | None = None
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """The gradient of ``outputs`` for each of ``inputs``. The graph stays as it is."""
    return torch.autograd.grad(outputs, inputs, arriving, retain_graph=True, allow_unused=True)


@contextmanager
def unseen() -> Iterator[None]:
    """Let no mode of the script see what is computed inside, and no generator notice it."""
    with replayed(random_state()), torch._C.DisableTorchFunction(), torch.no_grad():
        yield
