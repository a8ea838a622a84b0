"""What ``fit`` costs over ``for batch in loader: joint.step(batch)``, with progress and logging on.

``python -m benchmarks.fit``. Two equal models train in turn within one call of ``fit``: an epoch by ``fit``, then an
epoch of the other in a bare loop. Ratios of the medians of their durations. Drawing and logging are in these; what
happens between two epochs (validation, checkpoints) is not.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

import cograd
from benchmarks.cases import BATCH, DATA, HIDDEN, NOISE, bce, fused, mlp, mlp_gan
from cograd.training.loggers import CSV

STEPS = 200  # in an epoch: four logs, and a drawing or two


class Timed:
    """The same batch again and again, and how long each epoch of it took."""

    def __init__(self, batch: Tensor) -> None:
        self.batch, self.durations = batch, list[float]()

    def __len__(self) -> int:
        return STEPS

    def __iter__(self) -> Iterator[Tensor]:
        begin = time.perf_counter()
        for _ in range(STEPS):
            yield self.batch
        self.durations.append(time.perf_counter() - begin)


def gan() -> cograd.Joint:
    """Discriminator and generator in turn."""

    def losses(m: Any, batch: Tensor) -> cograd.Losses:
        fake = m.gen(torch.randn(len(batch), NOISE))
        return {
            "disc": lambda: bce(m.disc(batch), 1.0) + bce(m.disc(fake), 0.0),
            "gen": lambda: bce(m.disc(fake), 1.0),
        }

    return cograd.Joint(
        models=mlp_gan(),
        losses=losses,
        trains={"disc": "disc", "gen": "gen"},
        optimizers=fused,
        phases=cograd.alternate("disc", "gen"),
    )


def heads() -> cograd.Joint:
    """A shared trunk with four heads, in one pass."""
    torch.manual_seed(0)
    targets = torch.randn(4, BATCH, 1)
    models = {"trunk": mlp(DATA, HIDDEN, 2 * HIDDEN)} | {f"head{k}": mlp(HIDDEN, 1) for k in range(4)}

    def losses(m: Any, batch: Tensor) -> cograd.Losses:
        h = m.trunk(batch)
        return {f"loss{k}": F.mse_loss(m[f"head{k}"](h), targets[k]) for k in range(4)}

    return cograd.Joint(models=models, losses=losses, optimizers=fused)


def compare(make: Callable[[], cograd.Joint], epochs: int) -> tuple[float, float]:
    """Median seconds of a step: in a bare loop, and in ``fit``."""
    batch = torch.randn(BATCH, DATA)
    bare, ours = Timed(batch), Timed(batch)
    step = make().step

    def by_hand(run: cograd.training.Run) -> None:
        for batch in bare:
            step(batch)

    with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
        cograd.fit(
            make(), ours, epochs=epochs + 1, run_dir=folder, save_every=None, loggers=[CSV()], on={"epoch": by_hand}
        )
    hand, fit = (statistics.median(timed.durations[1:]) / STEPS for timed in (bare, ours))  # the first one warms up
    return hand, fit


def measured(epochs: int) -> Table:
    """One row for each model."""
    os.environ |= {"TTY_COMPATIBLE": "1", "TTY_INTERACTIVE": "1", "TERM": "xterm-256color"}  # draw as on a terminal
    table = Table("step", "bare loop [ms]", "fit [ms]", "overhead", title="fit against a bare loop over joint.step")
    for name, make in (("MLP GAN, in turn", gan), ("shared trunk, 4 heads", heads)):
        bare, ours = compare(make, epochs)
        table.add_row(name, f"{bare * 1e3:.3f}", f"{ours * 1e3:.3f}", f"{ours / bare:.3f}x")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=30, help=f"epochs of {STEPS} steps on each side (default 30)")
    epochs = parser.parse_args().epochs
    console = Console()
    console.print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, ratios of medians, interleaved\n")
    console.print(measured(epochs))


if __name__ == "__main__":
    main()
