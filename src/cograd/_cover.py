"""Cover the declared cells of a loss x model table by as few rectangles as possible."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

Cells = tuple[int, ...]  # for each loss, a bit mask of models
Rectangle = tuple[int, int]  # a bit mask of losses, a bit mask of models

SEARCHED_CELLS = 40  # tables with at most so many wanted cells are searched
SEARCHED_NODES = 20_000  # for at most so many trials


@lru_cache(maxsize=4096)
def fewest(wanted: Cells, forbidden: Cells) -> tuple[Rectangle, ...]:
    """Cover each wanted cell exactly once, no forbidden cell, and any other cell at will.

    Whole rows (losses) that do not disturb each other share a rectangle, or whole columns
    (models) do: one of the two is nearly always best. Small tables are searched for better.

    Args:
        wanted: for each loss, the models that it reaches and trains.
        forbidden: for each loss, the models that it reaches and must not train.

    Returns:
        Rectangles, ordered by their first loss.
    """
    width = max((cells.bit_length() for cells in (*wanted, *forbidden)), default=0)
    rows = _grouped(wanted, forbidden)
    columns = _grouped(_transposed(wanted, width), _transposed(forbidden, width))
    best = min(rows, [(losses, models) for models, losses in columns], key=len)
    if sum(cells.bit_count() for cells in wanted) <= SEARCHED_CELLS:
        best = _Search(wanted, forbidden).below(len(best)) or best
    return tuple(sorted(best, key=lambda rectangle: rectangle[0] & -rectangle[0]))


def _grouped(wanted: Sequence[int], forbidden: Sequence[int]) -> list[Rectangle]:
    """Put each row into the first group with which it agrees: neither wants what the other forbids."""
    groups: list[tuple[int, int, int]] = []  # rows, what they want, what they forbid
    for k, (want, ban) in enumerate(zip(wanted, forbidden, strict=True)):
        if not want:
            continue
        for i, (rows, wants, bans) in enumerate(groups):
            if not (bans | ban) & (wants | want):
                groups[i] = (rows | 1 << k, wants | want, bans | ban)
                break
        else:
            groups.append((1 << k, want, ban))
    return [(rows, wants) for rows, wants, _ in groups]


class _Search:
    """Give each wanted cell one of n labels by backtracking, n = 1, 2, ..."""

    def __init__(self, wanted: Cells, forbidden: Cells) -> None:
        self.wanted, self.forbidden = wanted, forbidden
        self.cells = [(k, m) for k, models in enumerate(wanted) for m in bits(models)]
        self.budget = SEARCHED_NODES

    def below(self, size: int) -> list[Rectangle] | None:
        """A cover with fewer than ``size`` rectangles, if one was found."""
        for n in range(1, size):
            rectangles = [(0, 0)] * n
            if self._place(0, rectangles):
                return rectangles
        return None

    def _place(self, at: int, rectangles: list[Rectangle]) -> bool:
        if at == len(self.cells):
            return True
        k, m = self.cells[at]
        if any(losses >> k & 1 and models >> m & 1 for losses, models in rectangles):
            return self._place(at + 1, rectangles)
        for i, old in enumerate(rectangles):
            self.budget -= 1
            if self.budget < 0:
                return False
            new = (old[0] | 1 << k, old[1] | 1 << m)
            if self._fits(new, rectangles[:i] + rectangles[i + 1 :]):
                rectangles[i] = new
                if self._place(at + 1, rectangles):
                    return True
                rectangles[i] = old
            if not old[0]:
                break  # empty rectangles are alike
        return False

    def _fits(self, new: Rectangle, others: list[Rectangle]) -> bool:
        losses, models = new
        if any(self.forbidden[k] & models for k in bits(losses)):
            return False
        return not any(self.wanted[k] & models & i for c, i in others for k in bits(losses & c))


def _transposed(rows: Sequence[int], width: int) -> Cells:
    return tuple(sum((row >> m & 1) << k for k, row in enumerate(rows)) for m in range(width))


def bits(mask: int) -> list[int]:
    """The positions of the bits that are set in ``mask``, lowest first."""
    return [i for i in range(mask.bit_length()) if mask >> i & 1]
