"""What ``cograd.record`` and ``cograd.explain`` cost: beside the same steps without, as ratios of medians.

``python -m benchmarks.explain``. Blocks alternate within one process, since machines drift. Under ``record``, the first
iterations, in which operations are followed, are timed on their own. One call of ``explain`` evaluates and
differentiates the losses, and updates nothing; it is set beside one whole step.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import cograd
from benchmarks.doctor import FIRST, resnet, step, timed


def small() -> tuple[nn.Module, Tensor]:
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4)), torch.randn(16, 16)


def compare(make: Callable[[], tuple[nn.Module, Tensor]], rounds: int, block: int) -> list[float]:
    """Median seconds of a step alone, recorded, in the first recorded iterations, and of a call of ``explain``."""
    model, x = make()
    iterate = step(lambda: (model, x))
    models = {"model": model}

    def losses(m: Any, batch: Tensor) -> dict[str, Tensor]:
        return {"loss": m.model(batch).pow(2).mean()}

    timed(iterate, 5)
    cograd.explain(losses, x, models=models)
    alone: list[float] = []
    under: list[float] = []
    first: list[float] = []
    explained: list[float] = []
    for _ in range(rounds):
        alone += timed(iterate, block)
        with cograd.record(models=models):
            first += timed(iterate, FIRST)
            under += timed(iterate, block)
        explained += timed(lambda: cograd.explain(losses, x, models=models), max(3, block // 10))
    return [statistics.median(times) for times in (alone, under, first, explained)]


def main() -> None:
    console = Console()
    console.print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, ratios of medians, in turn\n")
    table = Table("step", "alone [ms]", "record", f"record, first {FIRST}", "explain", title="Record and explain")
    for name, make, rounds, block in (("residual net, 16x3x32x32", resnet, 6, 10), ("small MLP", small, 10, 200)):
        alone, *others = compare(make, rounds, block)
        table.add_row(name, f"{alone * 1e3:.2f}", *(f"{other / alone:.2f}x" for other in others))
    console.print(table)


if __name__ == "__main__":
    main()
