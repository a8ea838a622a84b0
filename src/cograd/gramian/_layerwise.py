"""Layerwise: the Gramian layer by layer, from what arrives at each one, without a gradient per loss."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import GradientEdge

from cograd.gramian._cut import Cut
from cograd.gramian._engine import Engine, Gram, Measured, weighted_rows
from cograd.gramian._rows import Rows
from cograd.gramian._scope import Component
from cograd.gramian._uses import Use, uses


@final
@dataclass(frozen=True, slots=True)
class Layerwise(Engine):
    r"""Carry the losses through the shared part side by side, and let each layer add its term.

    One batched pass computes what arrives at the output of each layer, :math:`c_k` for loss k. For
    a linear layer with inputs a, :math:`\langle g_k, g_l \rangle = \langle c_k, (a a^\top + 1) c_l \rangle`,
    so that the gradients of its weight need not be formed, and the weighted gradient comes from the
    weighted sum of the :math:`c_k`. Embeddings and biases have such a form too. Of every other
    parameter, and of a linear layer that sees more rows (batch x positions) than it is wide, the
    gradients are formed in the same pass. All of this is exact.

    The cheapest where layers are wide and batches are not. A graph with an autograd Function of
    Python or a compiled module, or one that cannot be batched for another reason, is left to
    :class:`Rows`.

    >>> trunk, heads = nn.Linear(8, 8), nn.Linear(8, 2)
    >>> y = heads(trunk(torch.randn(4, 8)).relu()).square().mean(0)
    >>> report = cograd.backward({"a": y[0], "b": y[1]}, weighting=cograd.weighting.PCGrad(), gramian=Layerwise())
    >>> report.gramian.matrix.shape
    torch.Size([2, 2])
    """

    def measure(self, cut: Cut, component: Component, keep: bool = False) -> Measured:
        """See :class:`Engine`."""
        if not batchable(cut, component):
            return Rows().measure(cut, component, keep)
        layers = plan(cut, component)
        try:
            return _measure(cut, component, layers)
        except RuntimeError:  # Rows raises it again, unless batching is to blame
            found = Rows().measure(cut, component, keep)
            _REFUSED.add(id(component.leaves[0]))
            return found


_REFUSED: set[int] = set()  # shared parts that could not be batched


def batchable(cut: Cut, component: Component) -> bool:
    """May several losses go through the shared part side by side?"""
    if id(component.leaves[0]) in _REFUSED:
        return False
    return not any(isinstance(n, BackwardCFunction) and m & (m - 1) for n, m in cut.scope.users.items())


@dataclass(frozen=True, slots=True)
class Layer:
    """A parameter whose gradients need not be formed, and the places where it is used, all in one way."""

    leaf: Tensor
    uses: Sequence[Use]


def plan(cut: Cut, component: Component) -> list[Layer]:
    """The parameters of ``component`` that are cheaper without forming their gradients."""
    found = uses(cut.scope, component, {node for node, _ in cut.spots})
    return [
        Layer(leaf, places)
        for leaf, places in zip(component.leaves, found, strict=True)
        if places
        and not (leaf._backward_hooks or leaf.is_complex())
        and len({use.kind for use in places}) == 1
        and saved(len(component.losses), leaf, places)
    ]


def saved(n: int, leaf: Tensor, places: Sequence[Use]) -> float:
    """Multiplications that not forming the gradients of n losses saves; 0 if it saves none."""
    if places[0].role == "bias":
        return float(all(leaf.shape == use.node._input_metadata[0].shape[-1:] for use in places))
    rows = sum(use.rows for use in places)
    if places[0].role == "table":
        return float(n * leaf.numel())
    out, width = leaf.shape if places[0].turned else reversed(leaf.shape)
    return float(max(0, n * rows * width * out - rows * rows * (width + n * out)))


def _measure(cut: Cut, component: Component, layers: Sequence[Layer]) -> Measured:
    losses, inside = component.losses, cut.inside(component)
    kept = {use.node: use.input() for layer in layers for use in layer.uses if use.role != "bias"}
    inputs = {node: t for node, t in kept.items() if t is not None}
    layers = [layer for layer in layers if all(use.role == "bias" or use.node in inputs for use in layer.uses)]
    nodes = list(dict.fromkeys(use.node for layer in layers for use in layer.uses))
    known = {id(layer.leaf) for layer in layers}
    formed = [leaf for leaf in component.leaves if id(leaf) not in known]

    wanted: Any = [*(GradientEdge(node, 0) for node in nodes), *formed]
    with warnings.catch_warnings():  # of an operation that torch takes loss by loss, as Rows would
        warnings.filterwarnings("ignore", message="There is a performance drop")
        found = torch.autograd.grad(
            [GradientEdge(*spot) for spot in inside],
            wanted,
            [_side_by_side(arrived, losses) for arrived in inside.values()],
            retain_graph=True,
            allow_unused=True,
            is_grads_batched=True,
        )
    arriving = {node: c.flatten(1, -2) for node, c in zip(nodes, found, strict=False) if c is not None}
    gram = Gram(len(losses), component.leaves[0].device)
    rows = [
        (leaf, _at_least_float32(g.reshape(len(losses), -1)))
        for leaf, g in zip(formed, found[len(nodes) :], strict=True)
        if g is not None
    ]
    for _, r in rows:
        gram.add(r)
    terms = []
    for layer in layers:
        if met := [use for use in layer.uses if use.node in arriving]:
            c = _joined([arriving[use.node] for use in met], dim=1)
            a = [inputs[use.node] for use in met if use.role != "bias"]
            terms.append(_TERMS[met[0].role](gram, layer, _at_least_float32(c), a))
    return Measured(
        gram.done(),
        lambda weights: weighted_rows(rows, weights) + [(leaf, term(weights).to(leaf.dtype)) for leaf, term in terms],
        "layerwise",
    )


def _side_by_side(arrived: Mapping[int, Tensor], losses: Sequence[int]) -> Tensor:
    some = next(iter(arrived.values()))
    return torch.stack([arrived[k] if k in arrived else torch.zeros_like(some) for k in losses])


def _joined(tensors: Sequence[Tensor], dim: int) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(list(tensors), dim=dim)


def _at_least_float32(t: Tensor) -> Tensor:
    return t.to(torch.promote_types(t.dtype, torch.float32))


Term = tuple[Tensor, Callable[[Sequence[float]], Tensor]]  # a parameter and its weighted gradient


def _weight(gram: Gram, layer: Layer, c: Tensor, inputs: Sequence[Tensor]) -> Term:
    a = _joined(inputs, dim=0).to(c.dtype)
    gram.add(torch.matmul(a @ a.T, c).flatten(1), c.flatten(1))
    turned = layer.uses[0].turned
    return layer.leaf, lambda weights: (lambda t: t.T @ a if turned else a.T @ t)(_total(c, weights))


def _bias(gram: Gram, layer: Layer, c: Tensor, _: Sequence[Tensor]) -> Term:
    rows = c.sum(1)
    gram.add(rows)
    return layer.leaf, lambda weights: _total(rows, weights)


def _table(gram: Gram, layer: Layer, c: Tensor, indices: Sequence[Tensor]) -> Term:
    """Each row of the table gets what arrives where it was looked up; few rows were."""
    node = layer.uses[0].node
    met, place = _joined(indices, dim=0).unique(return_inverse=True)
    rows = c.new_zeros(len(c), len(met), c.shape[-1]).index_add_(1, place, c)
    rows[:, met == node._saved_padding_idx] = 0
    gram.add(rows.flatten(1))

    def combine(weights: Sequence[float]) -> Tensor:
        total = _total(rows, weights)
        if node._saved_sparse:
            return torch.sparse_coo_tensor(
                met[None], total, layer.leaf.shape, is_coalesced=True, check_invariants=False
            )
        return torch.zeros_like(layer.leaf, dtype=c.dtype).index_copy_(0, met, total)

    return layer.leaf, combine


_TERMS = {"weight": _weight, "bias": _bias, "table": _table}


def _total(c: Tensor, weights: Sequence[float]) -> Tensor:
    """The weighted sum of ``c`` ``[n, ...]``."""
    return (c.new_tensor(weights) @ c.flatten(1)).view(c.shape[1:])
