"""The routes as a picture: for Graphviz, and as SVG."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from cograd.explanation._table import percent, shown, where

if TYPE_CHECKING:
    from cograd.explanation._explanation import Cell, Part

_ROW, _LEFT, _WIDE, _CHAR = 44, 24, 260, 8.5  # pixels: between rows, to the first box, between columns, per letter


def _edges(part: Part) -> Iterator[tuple[str, str, Cell, str]]:
    for (loss, model), cell in part.cells.items():
        if shown(cell):
            cut = where(part, loss, model)
            place = f"{cut.how} {Path(cut.file).name}:{cut.line}" if cut else ""
            share = "" if cell.share is None else percent(cell.share)
            yield loss, model, cell, share if cell.reached else place


def as_dot(parts: Sequence[Part]) -> str:
    """A directed graph, a cluster for each part."""
    lines = [
        "digraph routes {",
        "  rankdir=LR;",
        "  node [fontname=Helvetica]; edge [fontname=Helvetica, fontsize=10];",
    ]
    for i, part in enumerate(parts):
        lines += [f"  subgraph cluster_{i} {{", f"    label={_quoted(part.title)};"]
        lines += [f"    {_quoted(f'{i} loss {k}')} [label={_quoted(k)}, shape=box];" for k in part.losses]
        lines += [f"    {_quoted(f'{i} model {m}')} [label={_quoted(m)}, shape=ellipse];" for m in part.models]
        for loss, model, cell, label in _edges(part):
            style = {"color": "red", "style": "dashed", "arrowhead": "tee"} if not cell.reached else {}
            if cell.reached:
                style = {"style": "dotted"} if cell.share is None else {"penwidth": f"{_width(cell):.1f}"}
            words = ", ".join(f"{key}={value}" for key, value in {"label": _quoted(label), **style}.items())
            lines.append(f"    {_quoted(f'{i} loss {loss}')} -> {_quoted(f'{i} model {model}')} [{words}];")
        lines.append("  }")
    return "\n".join([*lines, "}"])


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _width(cell: Cell) -> float:
    return 1 + 4 * (cell.share or 0.0)


def as_svg(parts: Sequence[Part]) -> str:
    """Losses on the left, models on the right; wide lines carry much, broken ones are red."""
    drawn: list[str] = []
    names = [name for part in parts for name in (*part.losses, *part.models)]
    box = int(max((len(name) for name in names), default=1) * _CHAR) + 20
    top = 0
    for part in parts:
        drawn.append(_text(_LEFT, top + 24, part.title, "start", weight="bold"))
        at = {("loss", k): top + 60 + _ROW * i for i, k in enumerate(part.losses)}
        at |= {("model", m): top + 60 + _ROW * i for i, m in enumerate(part.models)}
        edges = list(enumerate(_edges(part)))
        for n, (loss, model, cell, _) in edges:
            drawn.append(_edge(box, at["loss", loss], at["model", model], cell, n))
        for n, (loss, model, cell, label) in edges:
            drawn += _label(box, at["loss", loss], at["model", model], cell, label, n)
        for (kind, name), y in at.items():
            x = _LEFT if kind == "loss" else _LEFT + box + _WIDE
            round_by = 3 if kind == "loss" else 14
            drawn.append(
                f'<rect x="{x}" y="{y - 14}" width="{box}" height="28" rx="{round_by}" fill="white" stroke="black"/>'
            )
            drawn.append(_text(x + box / 2, y + 5, name, "middle"))
        top = max([top + 60, *at.values()]) + 30
    width = max([2 * _LEFT + 2 * box + _WIDE, *(2 * _LEFT + int(len(part.title) * _CHAR) for part in parts)])
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {top}" width="{width}" height="{top}">'
    return "\n".join([head, f'<rect width="{width}" height="{top}" fill="white"/>', *drawn, "</svg>"]) + "\n"


def _edge(box: int, y1: int, y2: int, cell: Cell, n: int) -> str:
    x1 = _LEFT + box
    far = 1.0 if cell.reached else _stop(n)
    dashes = "" if cell.share is not None else "2 4" if cell.reached else "6 4"
    return (
        f'<line x1="{x1}" y1="{y1}" x2="{x1 + far * _WIDE:g}" y2="{y1 + far * (y2 - y1):g}" '
        f'stroke="{_colour(cell)}" stroke-width="{_width(cell):.1f}" stroke-dasharray="{dashes or "none"}"/>'
    )


def _label(box: int, y1: int, y2: int, cell: Cell, label: str, n: int) -> Iterator[str]:
    far = (0.2, 0.35, 0.5)[n % 3] if cell.reached else _stop(n)
    x, y = _LEFT + box + far * _WIDE, y1 + far * (y2 - y1)
    if not cell.reached:
        yield _text(x, y + 6, "\u00d7", "middle", _colour(cell), weight="bold")
    if label:
        yield _text(x, y - 6, label, "middle", _colour(cell), size=11)


def _stop(n: int) -> float:
    return (0.46, 0.6, 0.74)[n % 3]


def _colour(cell: Cell) -> str:
    return "black" if cell.reached else "firebrick"


def _text(
    x: float, y: float, text: str, anchor: str, colour: str = "black", size: int = 14, weight: str = "normal"
) -> str:
    return (
        f'<text x="{x:g}" y="{y:g}" font-family="Helvetica, sans-serif" font-size="{size}" font-weight="{weight}" '
        f'text-anchor="{anchor}" fill="{colour}" paint-order="stroke" stroke="white" stroke-width="3">'
        f"{escape(text)}</text>"
    )
