"""Fonseca and Fleming's two objectives: where on a known, concave Pareto front each rule ends.

With c = 1 / sqrt(2), at a point x of two coordinates,

    first = 1 - exp(-sum((x_i - c)^2)),        second = 1 - exp(-sum((x_i + c)^2)).

(Fonseca, Fleming, An Overview of Evolutionary Algorithms in Multiobjective Optimization, Evolutionary
Computation 3(1), 1995; here with n = 2.) The best compromises are the points of the line from (c, c)
to (-c, -c), so that second = 1 - exp(-(2 - sqrt(-log(1 - first)))^2). In the plane of the two losses
this front is concave in its middle: a weighted sum has no minimum there, whatever its weights, and
slides on to a tip, where one loss is near 0 and the other near 0.98. A rule that only asks for a
direction in which no loss rises stops wherever it meets the front.

Log, RunningMean and Uncertainty divide by the loss: near a tip it is almost zero, and the step of SGD
becomes too long. The smoothing of SmoothTchebycheff is 0.1, in units of the loss.

    python examples/fonseca.py                           # a table and out/fonseca.png
    python examples/fonseca.py --methods sum MGDA UPGrad --steps 200 --out fonseca.png
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor, nn

import cograd
from cograd import weighting as w

STARTS = [(1.2, -0.4), (-1.0, 0.6), (0.1, 0.5), (-1.2, -1.0), (0.9, 1.1)]
CENTRE = 0.5**0.5
REACHED = 0.005  # a gap below this counts as on the front
TIP = 0.05  # the better loss, where the front ends

METHODS: dict[str, Callable[[], w.Weighting | None]] = {
    "sum": lambda: None,
    "weights 2 : 1": lambda: w.Fixed({"first": 4 / 3, "second": 2 / 3}),
    "FirstValue": w.FirstValue,
    "RunningMean": w.RunningMean,
    "Log": w.Log,
    "GeometricMean": w.GeometricMean,
    "Uncertainty": w.Uncertainty,
    "DWA": lambda: w.DWA(window=20),
    "Random": lambda: w.Random(seed=0),
    "FAMO": w.FAMO,
    "SmoothTchebycheff": lambda: w.SmoothTchebycheff(mu=0.1),
    "GradNorm": w.GradNorm,
    "PCGrad": lambda: w.PCGrad(seed=0),
    "GradVac": lambda: w.GradVac(seed=0),
    "MGDA": w.MGDA,
    "CAGrad": w.CAGrad,
    "IMTLG": w.IMTLG,
    "NashMTL": w.NashMTL,
    "FairGrad": w.FairGrad,
    "AlignedMTL": w.AlignedMTL,
    "UPGrad": w.UPGrad,
    "DualProj": w.DualProj,
    "ConFIG": w.ConFIG,
}


def objectives(x: Tensor) -> Tensor:
    """Both losses ``[..., 2]`` at points ``[..., 2]``."""
    return torch.stack([1 - (-(x - c).square().sum(-1)).exp() for c in (CENTRE, -CENTRE)], -1)


class Point(nn.Module):
    """The two parameters."""

    def __init__(self, start: tuple[float, float]) -> None:
        super().__init__()
        self.at = nn.Parameter(torch.tensor(start))


class Descent(NamedTuple):
    """The losses of a rule from one start, ``[steps + 1, 2]``, and why it stopped early, if it did."""

    losses: NDArray[np.float32]
    stopped: str


def losses(m: Any, batch: None) -> dict[str, Tensor]:
    """The two losses at the point."""
    first, second = objectives(m.point.at)
    return {"first": first, "second": second}


def descend(method: str, start: tuple[float, float], steps: int, lr: float) -> Descent:
    """Follow one rule from one start."""
    point = Point(start)
    joint = cograd.Joint(
        models={"point": point},
        losses=losses,
        optimizers=partial(torch.optim.SGD, lr=lr),
        weighting=METHODS[method](),
    )
    points, stopped = [point.at.detach().clone()], ""
    for _ in range(steps):
        try:
            joint.step(None)
        except cograd.CogradError as error:
            stopped = f"step {joint.steps}: {type(error).__name__}: {error}"
            break
        points.append(point.at.detach().clone())
    return Descent(objectives(torch.stack(points)).numpy(), stopped)


def front() -> NDArray[np.float64]:
    """Losses ``[N, 2]`` along the Pareto front."""
    first = np.linspace(0, 1 - np.exp(-4), 20_001)
    return np.stack([first, 1 - np.exp(-((2 - np.sqrt(-np.log1p(-first))) ** 2))], axis=1)


def gap(end: NDArray[np.float32]) -> float:
    """By how much both losses could still fall at once; 0 on the Pareto front."""
    return max(0.0, float((end - front()).min(axis=1).max()))


def at_tip(end: NDArray[np.float32]) -> bool:
    """Whether one loss is near its minimum, at the price of the other."""
    return gap(end) < REACHED and bool(end.min() < TIP)


def table(descents: dict[str, list[Descent]]) -> Table:
    """Per rule and start the losses at the end, in brackets where they are not on the front."""
    grid = Table(box=box.MARKDOWN)
    grid.add_column("rule", no_wrap=True)
    for x, y in STARTS:
        grid.add_column(f"from {x:g}, {y:g}", justify="right", no_wrap=True)
    grid.add_column("on front", justify="right", no_wrap=True)
    grid.add_column("at tip", justify="right", no_wrap=True)
    for method, mine in descents.items():
        ends = [descent.losses[-1] for descent in mine]
        cells = [f"{a:.2f} {b:.2f}" if gap(np.array([a, b])) < REACHED else f"({a:.2f} {b:.2f})" for a, b in ends]
        reached = sum(gap(end) < REACHED for end in ends)
        grid.add_row(method, *cells, f"{reached} of {len(ends)}", str(sum(at_tip(end) for end in ends)))
    return grid


def draw(file: Path, descents: dict[str, list[Descent]]) -> None:
    """A panel per rule, in the plane of the two losses: the front, and the five descents."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    columns = min(6, len(descents))
    rows = -(-len(descents) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(2.0 * columns, 2.0 * rows), sharex=True, sharey=True, squeeze=False
    )
    for axis in axes.flat[len(descents) :]:
        axis.axis("off")
    for axis, (method, mine) in zip(axes.flat, descents.items(), strict=False):
        axis.plot(*front().T, color="lightgrey", lw=4)
        for descent in mine:
            axis.plot(*descent.losses.T, lw=1)
            axis.plot(*descent.losses[0], "k.", ms=4)
            axis.plot(*descent.losses[-1], "k*" if gap(descent.losses[-1]) < REACHED else "rx", ms=6)
        axis.set_title(method, fontsize="small")
        axis.tick_params(labelsize=6)
    figure.suptitle("losses; grey: the Pareto front; dots: starts; stars: ends on it; crosses: not yet", fontsize=9)
    figure.tight_layout()
    figure.savefig(file, dpi=75)
    plt.close(figure)


def main(argv: list[str] | None = None) -> dict[str, list[Descent]]:
    """Follow the rules that were asked for; print the table and draw the descents."""
    parser = argparse.ArgumentParser(description="Rules for two losses with a concave Pareto front.")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), metavar="NAME")
    parser.add_argument("--steps", type=int, default=500, help="from each start (default 500)")
    parser.add_argument("--lr", type=float, default=0.1, help="learning rate of SGD (default 0.1)")
    parser.add_argument("--out", type=Path, default=Path("out/fonseca.png"), help="the picture")
    asked = parser.parse_args(argv)
    torch.set_num_threads(1)
    screen = Console(width=None if sys.stdout.isatty() else 140)
    descents: dict[str, list[Descent]] = {}
    with Progress(console=screen, disable=not screen.is_terminal, transient=True) as progress:
        bar = progress.add_task("descending", total=len(asked.methods))
        for method in asked.methods:
            descents[method] = [descend(method, start, asked.steps, asked.lr) for start in STARTS]
            progress.update(bar, advance=1, description=method)
            if not screen.is_terminal:
                print(f"[{len(descents)}/{len(asked.methods)}] {method}", flush=True)
    screen.print(table(descents))
    for method, mine in descents.items():
        for start, descent in zip(STARTS, mine, strict=True):
            if descent.stopped:
                screen.print(f"{method} from {start}: {descent.stopped}")
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    draw(asked.out, descents)
    screen.print(
        f"Both losses at the end; in brackets where both could still fall by {REACHED} or more. At a tip: the better "
        f"loss is below {TIP}. {asked.steps} steps of SGD {asked.lr:g}. Written to {asked.out}."
    )
    return descents


if __name__ == "__main__":
    main()
