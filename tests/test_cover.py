"""Covers of a loss x model table: right always, and as small as an exhaustive search finds."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cograd._cover import bits, fewest


@st.composite
def tables(draw, losses, models):
    """``(wanted, forbidden)``: each cell is wanted, forbidden, or neither."""
    height, width = draw(st.integers(0, losses)), draw(st.integers(1, models))
    rows = draw(
        st.lists(st.lists(st.sampled_from("+-."), min_size=width, max_size=width), min_size=height, max_size=height)
    )
    wanted = tuple(sum(1 << m for m, cell in enumerate(row) if cell == "+") for row in rows)
    forbidden = tuple(sum(1 << m for m, cell in enumerate(row) if cell == "-") for row in rows)
    return wanted, forbidden


def cells(rows):
    return {(k, m) for k, row in enumerate(rows) for m in bits(row)}


def inside(rectangle):
    losses, models = rectangle
    return {(k, m) for k in bits(losses) for m in bits(models)}


def smallest(wanted, forbidden):
    """The size of the smallest cover, by trying every rectangle for the first cell that is left."""
    wanted_cells, forbidden_cells = cells(wanted), cells(forbidden)
    width = max((row.bit_length() for row in (*wanted, *forbidden)), default=0)
    legal = [
        inside((losses, models)) & wanted_cells
        for losses in range(1, 1 << len(wanted))
        for models in range(1, 1 << width)
        if not inside((losses, models)) & forbidden_cells
    ]

    def coverable(left, n):
        if not left:
            return True
        first = min(left)
        return n > 0 and any(coverable(left - r, n - 1) for r in legal if first in r and r <= left)

    return next(n for n in range(len(wanted_cells) + 1) if coverable(wanted_cells, n))


@settings(deadline=None)
@given(tables(losses=9, models=7))
def test_every_wanted_cell_once_and_no_forbidden_one(table):
    wanted, forbidden = table
    covered = [cell for rectangle in fewest(wanted, forbidden) for cell in inside(rectangle)]
    assert sorted(cell for cell in covered if cell in cells(wanted)) == sorted(cells(wanted))
    assert not set(covered) & cells(forbidden)


@settings(max_examples=300, deadline=None)
@given(tables(losses=4, models=4))
def test_small_tables_get_the_smallest_cover(table):
    assert len(fewest(*table)) == smallest(*table)


@pytest.mark.parametrize(
    ("wanted", "forbidden", "passes"),
    [
        ((), (), 0),
        ((0, 0), (0b1, 0b10), 0),
        ((0b11, 0b11, 0b11), (0, 0, 0), 1),
        ((0b01, 0b10), (0, 0), 1),
        ((0b01, 0b10), (0b10, 0b01), 2),
        ((0b01, 0b10, 0b11), (0b10, 0b01, 0), 2),
        ((0b001, 0b010, 0b100), (0b110, 0b101, 0b011), 3),
        ((0b0001, 0b0011, 0b0111, 0b1111), (0b1110, 0b1100, 0b1000, 0), 4),
        ((0b110, 0b011, 0b101), (0, 0b100, 0b010), 2),
    ],
    ids=["nothing", "idle", "all", "apart", "adversaries", "X, Y, both", "each its own", "staircase", "neither way"],
)
def test_known_tables(wanted, forbidden, passes):
    assert len(fewest(wanted, forbidden)) == passes


def test_a_large_table_is_covered_without_a_search():
    """Thirty losses that each train their own model and reach all of them."""
    wanted = tuple(1 << k for k in range(30))
    forbidden = tuple((1 << 30) - 1 - w for w in wanted)
    assert len(fewest(wanted, forbidden)) == 30


def test_rectangles_come_in_the_order_of_their_first_loss():
    cover = fewest((0b01, 0b10, 0b11), (0b10, 0b01, 0))
    assert [bits(losses)[0] for losses, _ in cover] == [0, 1]
