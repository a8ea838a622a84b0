"""Say where a gradient was cut: for the errors of a step, and only when one is about to be raised."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

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


def _told(cut: Cut) -> str:
    site = cut.value.site
    return f"{site.place} by {cut.how}: `{site.source}`"
