"""Interleaved timing: machines drift and are shared, so only ratios within one run mean anything."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Sequence


def medians(steps: Sequence[Callable[[], object]], rounds: int, warmup: int = 10) -> list[float]:
    """Median seconds of each of ``steps``, called in turn, each round starting with another one."""
    for step in steps:
        for _ in range(warmup):
            step()
    times: list[list[float]] = [[] for _ in steps]
    gc.collect()
    gc.disable()
    try:
        for i in range(rounds):
            for k in range(len(steps)):
                which = (k + i) % len(steps)
                begin = time.perf_counter()
                steps[which]()
                times[which].append(time.perf_counter() - begin)
            if i % 50 == 0:
                gc.collect()
    finally:
        gc.enable()
    return [statistics.median(t) for t in times]
