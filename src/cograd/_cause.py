"""Say where a gradient was cut, or an old graph comes in: only when an error of a step is about to be raised."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from cograd._graph import sequence
from cograd.errors import quoted
from cograd.tracing import Cut, following


def cause(evaluate: Callable[[], Mapping[str, Tensor]], models: Mapping[str, Sequence[Tensor]]) -> str:
    """A sentence about what cuts the losses off from ``models``, with a space before it; empty if nothing is known.

    Args:
        evaluate: gives the losses, which it computes anew.
        models: name -> parameters.
    """
    wanted = [p for parameters in models.values() for p in parameters]
    with following() as tape:
        losses = evaluate()
        cuts = [cut for loss in losses.values() for cut in tape.cuts(loss, wanted)]
        if cuts:
            return f" It was cut at {_told(cuts[0])}." + "".join(f" And at {_told(cut)}." for cut in cuts[1:3])
        if any(tape.used(loss, wanted) for loss in losses.values()):
            return ""
        if left := tape.lost(wanted):
            return f" Its data left torch at {_told(left[0])}."
    return f" It was computed without {quoted(models)}." if losses else ""


def carried(losses: Mapping[str, Tensor], began: int) -> tuple[str, int] | None:
    """A loss whose graph goes back into one that was made earlier, and a sequence number in that.

    Args:
        losses: those that could not be differentiated.
        began: the sequence number of torch's graph when their evaluation began.
    """
    for name, loss in losses.items():
        seen: set[Any] = set()
        stack = [loss.grad_fn]
        while stack:
            node = stack.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            if not hasattr(node, "variable") and node._sequence_nr() < began:
                return name, node._sequence_nr()
            stack += [n for n, _ in node.next_functions]
    return None


def entrance(evaluate: Callable[[], object]) -> str:
    """Where a tensor that has a graph already enters what ``evaluate`` computes anew; empty if nothing is known."""
    began = sequence()
    with following() as tape:
        evaluate()
    for value in tape.values.values():
        if value.op == "unseen" and value.sequence is not None and value.sequence < began:
            return f" A tensor of shape {list(value.shape)} brings it in at {value.site.place}: `{value.site.source}`."
    return ""


def _told(cut: Cut) -> str:
    site = cut.value.site
    return f"{site.place} by {cut.how}: `{site.source}`"
