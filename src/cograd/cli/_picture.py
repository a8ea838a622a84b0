"""A picture of a trained recipe: what it draws itself, or the curves of its losses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING

from cograd.cli._trial import Curve, Trial

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SIZE = 7.2, 4.8  # inches
_FAR_APART = 5.0  # losses whose typical values differ by more than this factor get axes of their own


def save(trial: Trial, path: Path) -> Path:
    """Draw ``trial`` and write it to ``path`` as a PNG."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure(figsize=_SIZE, dpi=120, layout=ConstrainedLayoutEngine(compress=True, w_pad=0.1, h_pad=0.1))
    if trial.recipe.draw is None:
        draw_curves(figure, trial.curves)
    else:
        trial.recipe.draw(figure)
    if not figure.get_suptitle():
        figure.suptitle(f"{trial.name}\n{trial.outcome}", fontsize=11)
    figure.savefig(path, bbox_inches="tight", pad_inches=0.15)
    return path


def draw_curves(figure: Figure, curves: Mapping[str, Curve]) -> None:
    """Raw losses over the steps, with a running mean; losses of very different size on axes of their own."""
    curves = {name: curve for name, curve in curves.items() if curve[0]}
    sizes = [_size(values) for _, values in curves.values()]
    apart = max(sizes) > _FAR_APART * min(sizes)
    groups = [[name] for name in curves] if apart else [list(curves)]
    columns = 1 if len(groups) <= 3 else 2
    rows = math.ceil(len(groups) / columns)
    figure.set_size_inches(_SIZE[0], max(_SIZE[1], 1.9 * rows))
    for i, group in enumerate(groups):
        axes = figure.add_subplot(rows, columns, i + 1)
        for name in group:
            _draw(axes, name, curves[name], f"C{list(curves).index(name)}")
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.01)
        if len(group) == 1:
            axes.set_ylabel(group[0])
        else:
            axes.set_ylabel("loss")
            axes.legend(frameon=False)
        if i + columns >= len(groups):
            axes.set_xlabel("step")


def _draw(axes: Axes, name: str, curve: Curve, color: str) -> None:
    steps, values = curve
    window = max(1, len(values) // 40)
    if window == 1:
        axes.plot(steps, values, color=color, label=name, marker=".")
        return
    axes.plot(steps, values, color=color, alpha=0.25, linewidth=0.8)
    axes.plot(steps, _running_mean(values, window), color=color, label=name)


def _running_mean(values: Sequence[float], window: int) -> list[float]:
    """Centred means; towards both ends the part of the window that exists."""
    half = window // 2
    return [fmean(values[max(0, i - half) : i + half + 1]) for i in range(len(values))]


def _size(values: Sequence[float]) -> float:
    """The typical magnitude of a loss, not zero."""
    return max(median(abs(value) for value in values), 1e-12)
