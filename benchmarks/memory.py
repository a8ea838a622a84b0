"""Peak memory of a balanced step beyond what was held before it, in units of the shared parameters.

``python -m benchmarks.memory``. Each way runs in a process of its own; Linux only. A plain sum holds
one gradient per parameter at its end, so it is a little above 1.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from benchmarks.balanced import Case, Step
from cograd.gramian import Rows

BATCH = 64


def steps(losses: int, width: int) -> dict[str, Step]:
    torch.manual_seed(0)
    layers = [layer for _ in range(4) for layer in (nn.Linear(width, width), nn.ReLU())]
    case = Case(nn.Sequential(*layers), torch.randn(BATCH, width), losses)
    found: dict[str, Step] = {
        "plain sum": case.plain,
        "cograd": case.balanced(),
        "cograd, At(z)": case.at,
        "cograd, Rows": case.balanced(Rows()),
        "rows by hand": case.rows_by_hand,
    }
    try:
        from torchjd.aggregation import UPGrad
    except ImportError:
        return found
    return found | {
        "TorchJD": partial(case.torchjd, UPGrad()),
        "TorchJD, optimized Gramian": partial(case.torchjd, UPGrad(), True),
        "TorchJD, Engine": case.torchjd_engine,
    }


def measure(name: str, losses: int, width: int) -> float:
    """Peak minus resident before, over the parameters of the trunk."""
    step = steps(losses, width)[name]
    if name == "TorchJD, Engine":
        step = step()
    for _ in range(2):
        step()
    parameters = 4 * (width * width + width) * 4
    for thing in gc.get_objects():
        if isinstance(thing, torch.nn.Parameter):
            thing.grad = None
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak
    before = _status("VmRSS")
    step()
    return (_status("VmHWM") - before) * 1024 / parameters


def _status(field: str) -> int:
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if field in line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--losses", type=int, nargs="*", default=[2, 8], help="numbers of losses (default 2 8)")
    parser.add_argument("--width", type=int, default=512, help="of the four layers (default 512)")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(measure(options.one, options.losses[0], options.width))
        return
    title = f"MLP 4x{options.width}, batch {BATCH}: peak memory / shared parameters"
    table = Table("step", *(f"K = {k}" for k in options.losses), title=title)
    blocks_go_back = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    for name in steps(2, 8):
        row = []
        for k in options.losses:
            command = [sys.executable, "-m", "benchmarks.memory", "--one", name]
            command += ["--losses", str(k), "--width", str(options.width)]
            found = subprocess.run(command, env=blocks_go_back, capture_output=True, text=True, check=True)
            row.append(f"{float(found.stdout.split()[-1]):.2f}")
        table.add_row(name, *row)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
