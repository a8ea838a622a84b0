"""The time of a step, beside the same step written by hand."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from itertools import islice
from statistics import median

from cograd.recipes import Recipe
from cograd.recipes._recipe import Batch
from cograd.training import Batches

STEPS = 40
WARM_UP = 8


def race(build: Callable[[], Recipe], advance: Callable[[float], None]) -> tuple[float, float]:
    """Median seconds per step of cograd and of the loop by hand.

    Two fresh builds see the same batches in turns, and take turns in going first, so that a busy machine
    slows both. Where a phase runs only on each n-th batch, n batches are timed together.

    Args:
        build: gives the recipe anew.
        advance: called with the share of the race that is over.
    """
    cograd, plain = build(), build()
    runners = (cograd.joint.step, plain.by_hand(plain.joint.models, plain.joint.optimizers))
    batches = _endless(Batches(cograd.batches))
    together = math.lcm(*(phase.every for phase in cograd.joint.phases))
    times: tuple[list[float], list[float]] = ([], [])
    warm_up, rounds = math.ceil(WARM_UP / together), math.ceil(STEPS / together)
    for i in range(warm_up + rounds):
        block = list(islice(batches, together))
        for runner in (0, 1) if i % 2 else (1, 0):
            start = time.perf_counter()
            for batch in block:
                runners[runner](batch)
            if i >= warm_up:
                times[runner].append((time.perf_counter() - start) / together)
        advance((i + 1) / (warm_up + rounds))
    return median(times[0]), median(times[1])


def _endless(batches: Batches) -> Iterator[Batch]:
    while True:
        yield from batches
