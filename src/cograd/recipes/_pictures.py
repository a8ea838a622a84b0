"""Draw what a recipe's models see and make."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_images(figure: Figure, rows: Sequence[Tensor], labels: Sequence[str] = ()) -> None:
    """Draw each of ``rows`` as a row of square grey images, from -1 (white) to 1 (black).

    Args:
        figure: what to draw into.
        rows: ``[N, side * side]`` each, with the same N.
        labels: what each row shows, written above its first image.
    """
    axes = figure.subplots(len(rows), len(rows[0]), squeeze=False)
    for i, row in enumerate(rows):
        for axis, image in zip(axes[i], row, strict=True):
            side = math.isqrt(len(image))
            axis.imshow(image.reshape(side, side).numpy(), cmap="gray_r", vmin=-1, vmax=1)
            axis.axis("off")
        if labels:
            axes[i, 0].set_title(labels[i], loc="left", fontsize="small")
