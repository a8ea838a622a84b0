"""Facts about the graph below a loss, read from its nodes without running anything."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

Node = Any
_MANY = 50_000
_LEAF = (1 << 63) - 1  # nodes of leaves have larger numbers than this
_MARK = "cograd.backward"


def node_of(tensor: Tensor) -> Node:
    """``tensor.grad_fn``; None also where torch refuses to tell.

    That is a view which was made under ``no_grad`` and through which a leaf has been written since, as
    ``nn.init.orthogonal_`` does.
    """
    try:
        return tensor.grad_fn
    except RuntimeError:
        return None


def is_leaf(tensor: Tensor) -> bool:
    """``tensor.is_leaf``; False where torch refuses to tell, for it is a view then."""
    try:
        return tensor.is_leaf
    except RuntimeError:
        return False


def sequence() -> int:
    """The number that the next operation of this thread will have."""
    return int(torch._C._autograd._get_sequence_nr())


def missing() -> list[str]:
    """The private interfaces of torch that this file reads and that are not there."""
    probe = (torch.ones(2, requires_grad=True) * torch.ones(2)).grad_fn
    wanted = {
        "torch._C._autograd._get_sequence_nr": hasattr(torch._C._autograd, "_get_sequence_nr"),
        "Node._sequence_nr": hasattr(probe, "_sequence_nr"),
        "Node._raw_saved_*": hasattr(probe, "_raw_saved_other"),
        "Node.metadata": hasattr(probe, "metadata"),
    }
    return [name for name, there in wanted.items() if not there]


def nodes(roots: Sequence[Tensor]) -> Iterator[Node]:
    """Every node below ``roots`` once, up to a large number of them."""
    seen = {root.grad_fn for root in roots if root.grad_fn is not None}
    stack = list(seen)
    while stack and len(seen) < _MANY:
        node = stack.pop()
        yield node
        for below, _ in node.next_functions:
            if below is not None and below not in seen:
                seen.add(below)
                stack.append(below)


def sequence_of(node: Node) -> int | None:
    """The number of the operation that made ``node``; None for a leaf."""
    number = int(node._sequence_nr())
    return None if number > _LEAF else number


def saved(node: Node) -> Iterator[Tensor]:
    """The tensors that ``node`` saved for its backward, as far as they can be read without running hooks."""
    for name in _saved_names(_kind(node)):
        held = getattr(node, name)
        for one in held if isinstance(held, (tuple, list)) else (held,):
            data = getattr(one, "data", None)
            if isinstance(data, Tensor):
                yield data


def has_saved_hooks(node: Node) -> bool:
    """Whether reading what ``node`` saved would run code of the script or of a checkpoint."""
    for name in _saved_names(_kind(node)):
        held = getattr(node, name)
        for one in held if isinstance(held, (tuple, list)) else (held,):
            if getattr(one, "unpack_hook", None) is not None:
                return True
    return False


def _kind(node: Node) -> Any:
    return type(node)


@cache
def _saved_names(kind: Any) -> tuple[str, ...]:
    return tuple(name for name in dir(kind) if name.startswith("_raw_saved_"))


def overwritten(roots: Sequence[Tensor], written: Mapping[int, int]) -> dict[int, int]:
    """The memory that operations below ``roots`` saved and that was written since.

    Args:
        roots: what is differentiated.
        written: address -> the sequence number at which it was last written.

    Returns:
        Address -> the first operation that saved it before it was written.
    """
    latest = max(written.values(), default=0)
    found: dict[int, int] = {}
    for node in nodes(roots):
        number = sequence_of(node)
        if number is None or number >= latest:
            continue
        for tensor in saved(node):
            address = tensor.untyped_storage().data_ptr()
            if number < written.get(address, 0):
                found[address] = min(number, found.get(address, number))
    return found


def mark(roots: Sequence[Tensor], backward: int) -> None:
    """Leave on every node below ``roots`` which backward ran through it."""
    for node in nodes(roots):
        if sequence_of(node) is not None:
            node.metadata.setdefault(_MARK, backward)


def marked(roots: Sequence[Tensor]) -> tuple[int, int] | None:
    """The newest operation that a backward ran through before, and that backward."""
    found = None
    for node in nodes(roots):
        backward = node.metadata.get(_MARK) if sequence_of(node) is not None else None
        if backward is not None:
            number = sequence_of(node) or 0
            found = max(found or (number, backward), (number, backward))
    return found
