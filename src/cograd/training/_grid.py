"""Named values as a grid of text that fits a screen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import zip_longest
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.text import Text

_GAP = "   "
_MOST_ROWS = 6


class Grid:
    """A row for each kind of value, continued below it, with all columns of one width, which never shrinks.

    The kind is what stands before the last ``/`` of a name.
    """

    def __init__(self) -> None:
        self._figures = 0

    def rows(self, values: Mapping[str, float], width: int) -> Iterator[Text]:
        """Lines of at most that ``width``; none if not even one value fits."""
        from rich.cells import cell_len, set_cell_size
        from rich.text import Text

        groups: dict[str, list[tuple[str, str]]] = {}
        for full, value in values.items():
            kind, _, name = full.rpartition("/")
            groups.setdefault(kind, []).append((name, figure(value)))
        cells = [cell for group in groups.values() for cell in group]
        self._figures = max([self._figures, *(len(digits) for _, digits in cells)])
        label = min(max((cell_len(kind) + 2 for kind in groups if kind), default=0), width // 3)
        names = min(max((cell_len(name) for name, _ in cells), default=0), width - label - self._figures - 1)
        if names < 1:
            return
        columns = (width - label + len(_GAP)) // (names + 1 + self._figures + len(_GAP))
        for kind, group in groups.items():
            shown = [f"{set_cell_size(name, names)} {digits:>{self._figures}}" for name, digits in group]
            lines = [_GAP.join(shown[i : i + columns]) for i in range(0, len(shown), columns)]
            if len(lines) > _MOST_ROWS:
                lines[_MOST_ROWS - 1 :] = [f"and {len(shown) - columns * (_MOST_ROWS - 1)} more"]
            for begin, line in zip_longest([kind], lines, fillvalue=""):
                yield Text.assemble((set_cell_size(begin, label), "dim"), line, no_wrap=True, overflow="crop")


def figure(value: float) -> str:
    """``value`` to four digits."""
    return f"{value:.4g}"
