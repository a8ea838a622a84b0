"""Time the Gramian rules against TorchJD's: ``python -m benchmarks.weightings``, with TorchJD installed or not."""

from __future__ import annotations

import argparse
import itertools
import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.timing import medians
from cograd import weighting
from cograd.weighting import Seen, Weighting

OURS: dict[str, Weighting] = {
    "PCGrad": weighting.PCGrad(seed=0),
    "GradVac": weighting.GradVac(beta=0.5, seed=0),
    "MGDA": weighting.MGDA(),
    "CAGrad": weighting.CAGrad(c=0.5),
    "IMTLG": weighting.IMTLG(),
    "NashMTL": weighting.NashMTL(),
    "FairGrad": weighting.FairGrad(alpha=2.0),
    "AlignedMTL": weighting.AlignedMTL(),
    "UPGrad": weighting.UPGrad(),
    "DualProj": weighting.DualProj(),
    "ConFIG": weighting.ConFIG(),
}
THEIRS: Mapping[str, Callable[[Any, int], Callable[[Tensor], Tensor]]] = {
    "PCGrad": lambda jd, _: jd.PCGradWeighting(),
    "GradVac": lambda jd, _: jd.GradVacWeighting(beta=0.5),
    "MGDA": lambda jd, _: jd.MGDAWeighting(),
    "CAGrad": lambda jd, _: jd.CAGradWeighting(c=0.5),
    "IMTLG": lambda jd, _: jd.IMTLGWeighting(),
    "NashMTL": lambda jd, losses: jd.NashMTL(n_tasks=losses).weighting,
    "FairGrad": lambda jd, _: jd.FairGradWeighting(alpha=2.0),
    "AlignedMTL": lambda jd, _: jd.AlignedMTLWeighting(),
    "UPGrad": lambda jd, _: jd.UPGradWeighting(),
    "DualProj": lambda jd, _: jd.DualProjWeighting(),
    "ConFIG": lambda jd, _: jd.ConFIG(),
}
JACOBIANS = {"NashMTL", "ConFIG"}  # theirs take the gradients themselves


def gradients(losses: int, decades: float, count: int = 32) -> list[Tensor]:
    """Random directions whose lengths are spread over so many decades."""
    torch.manual_seed(0)
    spread = decades * torch.rand(count, losses, 1, dtype=torch.float64)
    return list(torch.randn(count, losses, 4 * losses, dtype=torch.float64) * 10**spread)


def ours(rule: Weighting, jacobians: list[Tensor]) -> Callable[[], object]:
    losses = len(jacobians[0])
    names = tuple(f"loss{k}" for k in range(losses))
    looks = itertools.cycle([Seen(names, None, (True,) * losses, gramian=J @ J.T) for J in jacobians])
    state = rule.init(names)

    def step() -> None:
        nonlocal state
        _, state = rule.weigh(next(looks), state)

    return step


def theirs(name: str, jacobians: list[Tensor]) -> Callable[[], object] | str:
    """A call of TorchJD's, or why there is none."""
    try:
        weigh = THEIRS[name](import_module("torchjd.aggregation"), len(jacobians[0]))
        inputs = itertools.cycle(jacobians if name in JACOBIANS else [J @ J.T for J in jacobians])
        weigh(next(inputs))
    except (ImportError, AttributeError) as error:
        return f"not installed: {str(error).splitlines()[0][:40]}"
    return lambda: weigh(next(inputs))


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare the Gramian rules with TorchJD's.")
    parser.add_argument("--rounds", type=int, default=200, help="timed calls of each (default 200)")
    parser.add_argument("--losses", type=int, nargs="+", default=[2, 4, 16], help="numbers of losses K")
    parser.add_argument("--decades", type=float, default=2.0, help="spread of the gradients' lengths (default 2)")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    table = Table("rule", "K", "cograd [us]", "TorchJD [us]", "TorchJD / cograd", title="Weights from a Gramian")
    for (name, rule), losses in itertools.product(OURS.items(), options.losses):
        jacobians = gradients(losses, options.decades)
        mine, other = ours(rule, jacobians), theirs(name, jacobians)
        if isinstance(other, str):
            table.add_row(name, str(losses), f"{medians([mine], options.rounds)[0] * 1e6:.0f}", other, "")
        else:
            rounds = min(options.rounds, 25) if name == "NashMTL" else options.rounds
            us, them = medians([mine, other], rounds, warmup=3)
            table.add_row(name, str(losses), f"{us * 1e6:.0f}", f"{them * 1e6:.0f}", f"{them / us:.1f}x")
    console = Console()
    console.print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, medians, interleaved")
    console.print(table)


if __name__ == "__main__":
    main()
