"""An explanation in words: a table of losses and models, and a sentence for each gradient that is cut."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cograd.explanation._explanation import Cell, CutAt, Part

_HEAD = ("loss", "model", "parameters", "gradient", "share", "cosine")
_RIGHT = (2, 3, 4)  # the columns of numbers
_COSINES = 3
_WIDTH = 99


def table(part: Part) -> str:
    """One line for each loss and model that it has to do with."""
    rows: list[tuple[str, ...]] = [_HEAD]
    for loss in part.losses:
        own = [(model, part.cells[loss, model]) for model in part.models if shown(part.cells[loss, model])]
        for i, (model, cell) in enumerate(own):
            rows.append((loss if i == 0 else "", model, *_numbers(cell, bool(where(part, loss, model)))))
        if not own:
            rows.append((loss, "none", "", "", "", ""))
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEAD))]
    return "\n".join(_line(row, widths) for row in rows)


def clipped(text: str) -> str:
    """``text`` with long lines cut short."""
    return "\n".join(line if len(line) <= _WIDTH else line[: _WIDTH - 3] + "..." for line in text.split("\n"))


def shown(cell: Cell) -> bool:
    """Does this loss have anything to do with this model?"""
    return bool(cell.reached) or cell.used or cell.declared


def where(part: Part, loss: str, model: str) -> CutAt | None:
    """The cut nearest to the loss."""
    return next((cut for cut in part.cuts if (cut.loss, cut.model) == (loss, model)), None)


def percent(share: float) -> str:
    """A share for people, told from nothing and from all."""
    if 0 < share < 0.005 or 0.995 < share < 1:
        return "<1%" if share < 0.5 else ">99%"
    return f"{share:.0%}"


def _line(row: tuple[str, ...], widths: list[int]) -> str:
    cells = [f"{x:>{w}}" if i in _RIGHT else f"{x:<{w}}" for i, (x, w) in enumerate(zip(row, widths, strict=True))]
    return ("  " + "  ".join(cells)).rstrip()


def _numbers(cell: Cell, cut: bool) -> tuple[str, ...]:
    count = f"{cell.reached} of {cell.parameters}"
    if not cell.reached:
        return count, "", "broken" if cell.declared else "cut" if cut else "none", ""
    largest = sorted(cell.cosines.items(), key=lambda item: -round(abs(item[1]), 2))[:_COSINES]
    cosines = ", ".join(f"{name} {cosine:+.2f}" for name, cosine in largest)
    more = len(cell.cosines) - len(largest)
    status = "not trained" if cell.share is None else percent(cell.share)
    return count, f"{cell.norm:.3g}", status, cosines + (f", {more} more" if more else "")


def sentences(part: Part) -> Iterator[str]:
    """What is broken, and what is cut."""
    for (loss, model), cell in part.cells.items():
        if not cell.reached and shown(cell) and not where(part, loss, model):
            why = (
                "and no line cuts it: an operation has no gradient" if cell.used else f"it is computed without {model}"
            )
            yield f"  {'broken' if cell.broken else 'none'}: {loss} trains no parameter of {model}, {why}"
    routes = [(pair, list(group)) for pair, group in groupby(part.cuts, key=lambda cut: (cut.loss, cut.model))]
    for (loss, model), cuts in sorted(routes, key=lambda route: not part.cells[route[0]].broken):
        cell = part.cells[loss, model]
        if cell.broken:
            yield f"  broken: {loss} trains no parameter of {model}, cut at"
        elif cell.reached:
            yield (
                f"  cut: {loss} depends on {cell.reached + cuts[0].parameters} parameters of {model}, and reaches "
                + (f"{cell.reached}, cut at")
            )
        else:
            yield f"  cut: {loss} depends on {model} and does not reach it, cut at"
        place, how = max(len(cut.place) for cut in cuts), max(len(cut.how) for cut in cuts)
        for cut in cuts:
            yield f"    {cut.place:{place}}  {cut.how:{how}}  {cut.source}"
