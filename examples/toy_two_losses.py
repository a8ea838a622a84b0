"""Two losses, two parameters: which rules reach the Pareto front, and where on it they end.

The toy problem of CAGrad (Liu et al., NeurIPS 2021; toy.py of Cranial-XIX/CAGrad) in the form of
Nash-MTL (Navon et al., ICML 2022; experiments/toy of AvivNavon/nash-mtl) and FAMO (Liu et al.,
NeurIPS 2023): the first loss is multiplied by 0.1, there are five starting points, and Adam moves the
two parameters. The losses have narrow, deep valleys that cross the way down, and a smooth bowl below,
where the Pareto front is. A rule that follows a valley, or crosses it, too slowly is not there at the end.

With s = -1 for the first loss and s = 1 for the second, each is, at (x, y),

    log(max(|(7 s - x) / 2 - s tanh(y)|, 5e-6)) + 6            times  max(tanh(y / 2), 0), plus
    ((x + 7 s)^2 + (y + 8)^2 / 10) / 10 - 20                   times  max(tanh(-y / 2), 0).

The authors take 35,000 (Nash-MTL), 50,000 (FAMO) or 100,000 steps (CAGrad) at a learning rate of 0.001.
The default here is 6,000 steps at 0.02. Log, GeometricMean and Uncertainty are missing, because the
losses become negative; FAMO is told lower bounds, as in its authors' code.

    python examples/toy_two_losses.py                              # a table and toy_two_losses.png
    python examples/toy_two_losses.py --steps 100000 --lr 0.001    # as CAGrad's authors: 17 times as long
    python examples/toy_two_losses.py --methods sum CAGrad --out toy.png --jobs 2
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
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

STARTS = [(-8.5, 7.5), (0.0, 0.0), (9.0, 9.0), (-7.5, -0.5), (9.0, -1.0)]
SCALE = torch.tensor([0.1, 1.0])
SIDE = torch.tensor([-1.0, 1.0])
REACHED = 0.1  # a gap below this counts as on the front

METHODS: dict[str, Callable[[], w.Weighting | None]] = {
    "sum": lambda: None,
    "FirstValue": w.FirstValue,
    "FAMO": lambda: w.FAMO(bounds={"first": -2.1, "second": -21.0}),
    "GradNorm": w.GradNorm,
    "PCGrad": lambda: w.PCGrad(seed=0),
    "MGDA": w.MGDA,
    "CAGrad": w.CAGrad,
    "IMTLG": w.IMTLG,
    "NashMTL": w.NashMTL,
    "AlignedMTL": w.AlignedMTL,
    "UPGrad": w.UPGrad,
    "ConFIG": w.ConFIG,
}


def unscaled(x: Tensor, y: Tensor) -> Tensor:
    """Both losses ``[..., 2]`` before the first is multiplied by 0.1, at points ``[...]``."""
    x, y = x.unsqueeze(-1), y.unsqueeze(-1)
    valley = ((7 * SIDE - x) / 2 - SIDE * y.tanh()).abs().clamp_min(5e-6).log() + 6
    bowl = ((x + 7 * SIDE).square() + 0.1 * (y + 8).square()) / 10 - 20
    upper = (y / 2).tanh()
    return valley * upper.clamp_min(0) + bowl * (-upper).clamp_min(0)


class Point(nn.Module):
    """The two parameters."""

    def __init__(self, start: tuple[float, float]) -> None:
        super().__init__()
        self.at = nn.Parameter(torch.tensor(start))


class Path2D(NamedTuple):
    """Where a rule went from one start, ``[steps + 1, 2]``, and why it stopped early, if it did."""

    points: NDArray[np.float32]
    stopped: str


def losses(m: Any, batch: None) -> dict[str, Tensor]:
    """The two losses at the point."""
    first, second = SCALE * unscaled(*m.point.at)
    return {"first": first, "second": second}


def descend(method: str, start: tuple[float, float], steps: int, lr: float) -> Path2D:
    """Follow one rule from one start."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    point = Point(start)
    joint = cograd.Joint(
        models={"point": point},
        losses=losses,
        optimizers=partial(torch.optim.Adam, lr=lr),
        weighting=METHODS[method](),
    )
    points, stopped = [point.at.detach().numpy().copy()], ""
    for _ in range(steps):
        try:
            joint.step(None)
        except cograd.CogradError as error:
            stopped = f"step {joint.steps}: {type(error).__name__}: {error}"
            break
        points.append(point.at.detach().numpy().copy())
    return Path2D(np.array(points), stopped)


def front() -> Tensor:
    """Unscaled losses ``[N, 2]`` of points on and beside the Pareto front, which lies near y = -8.4."""
    x, y = torch.meshgrid(torch.linspace(-7, 7, 1401), torch.linspace(-8.5, -8.3, 21), indexing="ij")
    return unscaled(x.flatten(), y.flatten())


def gap(values: Tensor) -> float:
    """By how much both unscaled losses could still fall at once; about 0 on the Pareto front."""
    return max(0.0, (values - front()).min(1).values.max().item())


def end(path: Path2D) -> Tensor:
    """The unscaled losses ``[2]`` at the end of a path."""
    return unscaled(*torch.from_numpy(path.points[-1]))


def table(paths: dict[str, list[Path2D]]) -> Table:
    """Per rule and start the losses at the end, in brackets where they are not on the front."""
    grid = Table(box=box.MARKDOWN)
    grid.add_column("rule")
    for x, y in STARTS:
        grid.add_column(f"from {x:g}, {y:g}", justify="right", no_wrap=True)
    grid.add_column("reached", justify="right")
    grid.add_column("largest gap", justify="right")
    for method, mine in paths.items():
        gaps = [gap(end(path)) for path in mine]
        cells = []
        for path, distance in zip(mine, gaps, strict=True):
            first, second = end(path).tolist()
            cell = f"{first:.1f} {second:.1f}"
            cells.append(cell if distance < REACHED else f"({cell})")
        grid.add_row(method, *cells, f"{sum(d < REACHED for d in gaps)} of {len(gaps)}", f"{max(gaps):.2f}")
    return grid


def draw(file: Path, paths: dict[str, list[Path2D]]) -> None:
    """A panel per rule: contours of the sum of the unscaled losses, the five paths, and the front."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    columns = min(6, len(paths))
    rows = -(-len(paths) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(2.1 * columns, 2.2 * rows), sharex=True, sharey=True, squeeze=False
    )
    x, y = torch.meshgrid(torch.linspace(-11, 11, 120), torch.linspace(-11, 11, 120), indexing="xy")
    height = unscaled(x, y).sum(-1).numpy()
    for axis in axes.flat[len(paths) :]:
        axis.axis("off")
    for axis, (method, mine) in zip(axes.flat, paths.items(), strict=False):
        axis.contour(x.numpy(), y.numpy(), height, levels=12, colors="lightgrey", linewidths=0.5)
        axis.plot([-7, 7], [-8.36, -8.36], color="grey", lw=5, alpha=0.5, solid_capstyle="butt")
        for path in mine:
            points = path.points[:: max(1, len(path.points) // 300)]
            axis.plot(points[:, 0], points[:, 1], lw=1)
            axis.plot(*path.points[0], "k.", ms=4)
            axis.plot(*path.points[-1], "k*" if gap(end(path)) < REACHED else "rx", ms=6)
        axis.set_title(method, fontsize="small")
        axis.tick_params(labelsize=6)
    figure.suptitle(
        "dots: starts; stars: ends on the Pareto front (grey bar); crosses: ends elsewhere", fontsize="small"
    )
    figure.tight_layout()
    figure.savefig(file, dpi=75)
    plt.close(figure)


def run_all(methods: list[str], steps: int, lr: float, jobs: int) -> Iterator[tuple[str, Path2D]]:
    """The paths, rule by rule, each from all starts."""
    tasks = [(method, start, steps, lr) for method in methods for start in STARTS]
    if jobs == 1:
        yield from ((task[0], descend(*task)) for task in tasks)
        return
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        for task, future in [(task, pool.submit(descend, *task)) for task in tasks]:
            yield task[0], future.result()


def main(argv: list[str] | None = None) -> dict[str, list[Path2D]]:
    """Follow the rules that were asked for; print the table and draw the paths."""
    parser = argparse.ArgumentParser(description="Rules for two losses on a toy problem.")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), metavar="NAME")
    parser.add_argument("--steps", type=int, default=6000, help="from each start (default 6000)")
    parser.add_argument("--lr", type=float, default=0.02, help="learning rate of Adam (default 0.02)")
    parser.add_argument("--jobs", type=int, default=1, help="descents at the same time (default 1)")
    parser.add_argument("--out", type=Path, default=Path("out/toy_two_losses.png"), help="the picture")
    asked = parser.parse_args(argv)
    screen = Console(width=None if sys.stdout.isatty() else 140)
    paths: dict[str, list[Path2D]] = {method: [] for method in asked.methods}
    with Progress(console=screen, disable=not screen.is_terminal, transient=True) as progress:
        bar = progress.add_task("descending", total=len(paths) * len(STARTS))
        for method, path in run_all(asked.methods, asked.steps, asked.lr, asked.jobs):
            paths[method].append(path)
            progress.update(bar, advance=1, description=method)
            if not screen.is_terminal and len(paths[method]) == len(STARTS):
                print(f"{method}: {sum(gap(end(p)) < REACHED for p in paths[method])} of {len(STARTS)}", flush=True)
    screen.print(table(paths))
    for method, mine in paths.items():
        for start, path in zip(STARTS, mine, strict=True):
            if path.stopped:
                screen.print(f"{method} from {start}: {path.stopped}")
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    draw(asked.out, paths)
    screen.print(
        f"Both losses at the end, the first before it is multiplied by 0.1; in brackets where both could still fall by "
        f"{REACHED} or more (the gap). {asked.steps} steps of Adam {asked.lr:g}. Written to {asked.out}."
    )
    return paths


if __name__ == "__main__":
    main()
