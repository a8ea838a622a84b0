"""The routes of losses to models, drawn with plain characters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cograd.explanation._table import percent, shown, where

if TYPE_CHECKING:
    from cograd.explanation._explanation import Cell, Part

_LEGEND = {
    "====>": "most of the gradient",
    "---->": "trains",
    "....>": "reaches without training",
    "--x  ": "broken",
    "..x  ": "no gradient",
}


def drawing(part: Part) -> str:
    """Each loss on the left, with a line to each model that it has to do with.

    A line's end says what becomes of the gradient; the last line says what the ends mean.
    """
    left, right = max(map(len, part.losses), default=0), max(map(len, part.models), default=0)
    lines, used = [], set()
    for loss in part.losses:
        own = [(model, part.cells[loss, model]) for model in part.models if shown(part.cells[loss, model])]
        for i, (model, cell) in enumerate(own):
            start = f"{loss:{left}} -" if i == 0 else " " * (left + 2)
            joint = "-" if len(own) == 1 else "+"
            lines.append(f"  {start}{joint}{arrow(cell)} {model:{right}}  {_label(part, loss, model)}".rstrip())
            used.add(arrow(cell))
    legend = ", ".join(f"{sign.strip()} {words}" for sign, words in _LEGEND.items() if sign in used)
    return "\n".join(["", *lines, f"  ({legend})"]) if lines else ""


def arrow(cell: Cell) -> str:
    """The end of a line."""
    if not cell.reached:
        return "--x  " if cell.declared else "..x  "
    if cell.share is None:
        return "....>"
    return "====>" if cell.share > 0.5 else "---->"


def _label(part: Part, loss: str, model: str) -> str:
    cell = part.cells[loss, model]
    cut = where(part, loss, model)
    place = f"{cut.how} at {cut.place}" if cut else ""
    if not cell.reached:
        return place or ("" if cell.used else "not used")
    share = "not trained" if cell.share is None else percent(cell.share)
    return f"{share:>4}  {place and 'in part: ' + place}".rstrip()
