"""Layers: the term that each shared parameter adds to the Gramian, and its weighted gradient."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from cograd._graph import Node
from cograd.gramian._cut import Cut
from cograd.gramian._engine import Gradients
from cograd.gramian._gram import Coefficients, Gram, products, total
from cograd.gramian._scope import Component
from cograd.gramian._uses import Use, uses


@dataclass(slots=True)
class Layer(ABC):
    """A parameter whose gradients need not be formed.

    Attributes:
        leaf: the parameter.
        uses: where it enters the graph, everywhere in the same way.
    """

    leaf: Tensor
    uses: Sequence[Use]

    @property
    def leaves(self) -> tuple[Tensor, ...]:
        """The parameters that it takes care of."""
        return (self.leaf,)

    @abstractmethod
    def saves(self, n: int) -> float:
        """Multiplications that not forming the gradients of n losses saves; not positive if it saves none."""

    def look(self) -> bool:
        """Fetch what the graph has kept for it. False if that would have to be computed anew."""
        return True

    @abstractmethod
    def add(self, gram: Gram, arrived: Sequence[Tensor]) -> None:
        """Add its term, from what ``arrived`` at each use: ``[n, rows, out]``."""

    @abstractmethod
    def gradients(self, like: Coefficients) -> Gradients:
        """The weighted gradient, once, after :meth:`add`. What was kept for it is let go."""


@dataclass(slots=True)
class Weight(Layer):
    r"""The weight of a linear layer, perhaps with its bias: :math:`\langle c_k, (a a^\top + 1) c_l \rangle`."""

    bias: Tensor | None = None
    _inputs: Sequence[Tensor] = ()
    _arrived: Tensor | None = None

    @property
    def leaves(self) -> tuple[Tensor, ...]:
        """See :class:`Layer`."""
        return (self.leaf,) if self.bias is None else (self.leaf, self.bias)

    def saves(self, n: int) -> float:
        """See :class:`Layer`."""
        rows = sum(use.rows for use in self.uses)
        out, width = self.leaf.shape if self.uses[0].turned else reversed(self.leaf.shape)
        return float(n * rows * width * out - rows * rows * (width + n * out))

    def look(self) -> bool:
        """See :class:`Layer`."""
        found = [use.input() for use in self.uses]
        self._inputs = [a for a in found if a is not None]
        return len(self._inputs) == len(found)

    def add(self, gram: Gram, arrived: Sequence[Tensor]) -> None:
        """See :class:`Layer`."""
        self._arrived = _at_least_float32(_joined(arrived, dim=1))
        gram.add(self._products)

    def _products(self, precision: torch.dtype | None) -> Tensor:
        assert self._arrived is not None
        c = self._arrived if precision is None else self._arrived.to(precision)
        a = _at_least_float32(_joined(self._inputs, dim=0)).to(c.dtype)
        inner = a @ a.T
        if self.bias is not None:
            inner += 1
        return torch.bmm(inner.expand(len(c), -1, -1), c).flatten(1) @ c.flatten(1).T

    def gradients(self, like: Coefficients) -> Gradients:
        """See :class:`Layer`."""
        assert self._arrived is not None
        c, self._arrived = total(self._arrived, like), None
        a = _joined(self._inputs, dim=0).to(c.dtype)
        found = [(self.leaf, c.T @ a if self.uses[0].turned else a.T @ c)]
        return found if self.bias is None else [*found, (self.bias, c.sum(0))]


@dataclass(slots=True)
class Table(Layer):
    """A table of embeddings: each row gets what arrives where it was looked up, and few rows were."""

    _indices: Sequence[Tensor] = ()
    _met: Tensor | None = None
    _rows: Tensor | None = None

    def saves(self, n: int) -> float:
        """See :class:`Layer`."""
        return float(n * self.leaf.numel())

    def look(self) -> bool:
        """See :class:`Layer`."""
        found = [use.input() for use in self.uses]
        self._indices = [a for a in found if a is not None]
        return len(self._indices) == len(found)

    def add(self, gram: Gram, arrived: Sequence[Tensor]) -> None:
        """See :class:`Layer`."""
        c = _at_least_float32(_joined(arrived, dim=1))
        self._met, place = _joined(self._indices, dim=0).unique(return_inverse=True)
        self._rows = c.new_zeros(len(c), len(self._met), c.shape[-1]).index_add_(1, place, c)
        self._rows[:, self._met == self.uses[0].node._saved_padding_idx] = 0
        gram.add(partial(products, self._rows.flatten(1)))

    def gradients(self, like: Coefficients) -> Gradients:
        """See :class:`Layer`."""
        assert self._met is not None
        assert self._rows is not None
        found, self._rows = total(self._rows, like), None
        if self.uses[0].node._saved_sparse:
            place, shape = self._met[None], self.leaf.shape
            sparse = torch.sparse_coo_tensor(place, found, shape, is_coalesced=True, check_invariants=False)
            return [(self.leaf, sparse)]
        return [(self.leaf, torch.zeros_like(self.leaf, dtype=found.dtype).index_copy_(0, self._met, found))]


def layers(cut: Cut, component: Component) -> list[Layer]:
    """The parameters of ``component`` that are cheaper without forming their gradients."""
    found: list[Layer] = []
    biases: dict[Node, Tensor] = {}
    spots = {entry.edge.node for entry in cut.scope.entries}
    for leaf, places in zip(component.leaves, uses(cut.scope, component, spots), strict=True):
        if not places or len({use.kind for use in places}) > 1 or leaf._backward_hooks or leaf.is_complex():
            continue
        if places[0].role == "bias":
            if len(places) == 1 and tuple(leaf.shape) == places[0].shape[-1:]:
                biases[places[0].node] = leaf
            continue
        layer: Layer = Weight(leaf, places) if places[0].role == "weight" else Table(leaf, places)
        if layer.saves(len(component.losses)) > 0:
            found.append(layer)
    for layer in found:
        if isinstance(layer, Weight) and len(layer.uses) == 1:
            layer.bias = biases.get(layer.uses[0].node)
    return found


def _joined(tensors: Sequence[Tensor], dim: int) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(list(tensors), dim=dim)


def _at_least_float32(t: Tensor) -> Tensor:
    return t if t.element_size() >= 4 else t.float()
