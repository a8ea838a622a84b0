"""What the doctor costs: the same steps with the recorder installed and without, as ratios of medians.

``python -m benchmarks.doctor``. Blocks of iterations alternate within one process: installing and removing the
recorder is quick, and machines drift. The first iterations, in which operations are followed, are timed on their own.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from cograd.tracing import Recorder, recording

FIRST = 12  # iterations in which operations are followed, and a few more


class Residual(nn.Module):
    """A residual block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.body(x))


def resnet() -> tuple[nn.Module, torch.Tensor]:
    blocks = [Residual(32) for _ in range(8)]
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)
    )
    return model, torch.randn(16, 3, 32, 32)


def transformer() -> tuple[nn.Module, torch.Tensor]:
    layer = nn.TransformerEncoderLayer(128, 4, 512, dropout=0.0, batch_first=True)
    return nn.TransformerEncoder(layer, 6, enable_nested_tensor=False), torch.randn(16, 64, 128)


def mlp() -> tuple[nn.Module, torch.Tensor]:
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
    return model, torch.randn(128, 64)


def step(make: Callable[[], tuple[nn.Module, torch.Tensor]]) -> Callable[[], None]:
    """One training step as people write it."""
    model, x = make()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def iterate() -> None:
        loss = model(x).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return iterate


def timed(iterate: Callable[[], None], times: int) -> list[float]:
    """Seconds of each of so many calls."""
    found = []
    for _ in range(times):
        begin = time.perf_counter()
        iterate()
        found.append(time.perf_counter() - begin)
    return found


def compare(make: Callable[[], tuple[nn.Module, torch.Tensor]], rounds: int, block: int) -> tuple[float, float, float]:
    """Median seconds of a step without the recorder, with it, and in the first iterations under it."""
    iterate = step(make)
    timed(iterate, 5)
    alone: list[float] = []
    under: list[float] = []
    first: list[float] = []
    for _ in range(rounds):
        alone += timed(iterate, block)
        with recording(Recorder()):
            first += timed(iterate, FIRST)
            under += timed(iterate, block)
    return statistics.median(alone), statistics.median(under), statistics.median(first)


def main() -> None:
    console = Console()
    console.print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, ratios of medians, in turn\n")
    table = Table("step", "alone [ms]", "doctor [ms]", "overhead", f"first {FIRST}", title="The doctor")
    for name, make, rounds, block in (
        ("residual net, 16x3x32x32", resnet, 4, 10),
        ("transformer, 6 layers", transformer, 4, 10),
        ("MLP", mlp, 8, 150),
    ):
        alone, under, first = compare(make, rounds, block)
        table.add_row(
            name, f"{alone * 1e3:.2f}", f"{under * 1e3:.2f}", f"{under / alone:.3f}x", f"{first / alone:.2f}x"
        )
    console.print(table)


if __name__ == "__main__":
    main()
