"""Uses: how the shared parameters enter the graph, as far as their layer is one that we know."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from cograd._graph import Node
from cograd.gramian._scope import Component, Scope

Parents = Mapping[Node, Sequence[tuple[Node, int]]]
_PASSING = {"TBackward0", "TransposeBackward0", "ToCopyBackward0"}
_ROLES: Mapping[tuple[str, int], Literal["weight", "bias", "table"]] = {
    ("AddmmBackward0", 2): "weight",
    ("AddmmBackward0", 0): "bias",
    ("MmBackward0", 1): "weight",
    ("EmbeddingBackward0", 0): "table",
}


@dataclass(frozen=True, slots=True)
class Use:
    """One place where a parameter enters a layer.

    Attributes:
        role: the weight of ``x @ weight``, a bias added to every row of it, or a table of embeddings.
        node: the layer.
        turned: whether the parameter is the transpose of that weight.
    """

    role: Literal["weight", "bias", "table"]
    node: Node
    turned: bool

    @property
    def kind(self) -> tuple[object, ...]:
        """What uses of one parameter must have in common, so that their terms can be added."""
        table = (self.node._saved_padding_idx, self.node._saved_sparse) if self.role == "table" else ()
        return self.role, self.turned, *table

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what the layer puts out: ``[..., out]``."""
        return tuple(self.node._input_metadata[0].shape)

    @property
    def rows(self) -> int:
        """Batch x positions."""
        return math.prod(self.shape[:-1])

    def input(self) -> Tensor | None:
        """What the layer saw: ``[rows, width]``, or ``[rows]`` indices. None if it would be computed anew.

        Saved tensors with hooks belong to a checkpoint or are elsewhere.

        Raises:
            RuntimeError: it has been changed in place since.
        """
        name = {"AddmmBackward0": "mat1", "MmBackward0": "self", "EmbeddingBackward0": "indices"}[
            type(self.node).__name__
        ]
        if getattr(self.node, f"_raw_saved_{name}").unpack_hook is not None:
            return None
        seen: Tensor = getattr(
            self.node, f"_saved_{name}"
        ).detach()  # else what is computed from it would hold the graph
        return seen.flatten() if self.role == "table" else seen


def uses(scope: Scope, component: Component, spots: Collection[Node]) -> list[list[Use] | None]:
    """For each shared parameter of ``component``, every place where it enters a layer; None if one is unknown.

    Args:
        spots: the nodes where gradient of a single loss arrives, which may be the parameters themselves.
    """
    parents: dict[Node, list[tuple[Node, int]]] = {}
    for node, below in scope.walk.below.items():
        for turn, (n, _) in enumerate(below):
            if n is not None and (type(n).__name__ in _PASSING or not scope.walk.below[n]):
                parents.setdefault(n, []).append((node, turn))
    return [_uses(node, False, parents, spots) for node in component.nodes]


def _uses(node: Node, turned: bool, parents: Parents, spots: Collection[Node]) -> list[Use] | None:
    if node in spots:
        return None
    found: list[Use] = []
    for parent, turn in parents.get(node, ()):
        kind = type(parent).__name__
        if kind in _PASSING:
            turns = kind != "ToCopyBackward0"
            if turns and len(parent._input_metadata[0].shape) != 2:
                return None
            more = _uses(parent, turned ^ turns, parents, spots)
        else:
            role = _ROLES.get((kind, turn))
            more = [Use(role, parent, turned)] if role and _plain(parent, kind) else None
        if more is None:
            return None
        found += more
    return found


def _plain(node: Node, kind: str) -> bool:
    """Is the layer no more than its name says?"""
    if kind == "AddmmBackward0":
        return bool(node._saved_alpha == 1 and node._saved_beta == 1)
    if kind == "EmbeddingBackward0":
        return not node._saved_scale_grad_by_freq
    return True
