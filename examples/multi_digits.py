"""Read two overlaid digits at once: what every rule makes of losses of equal and of unequal scale.

An image is the maximum of two handwritten digits of scikit-learn, one in the upper left and one in
the lower right of 12x12 pixels. One trunk of 144-128-128 units carries two linear heads, one per
digit. In some settings the left loss is 30 or 100 times as large, as if it had another unit; it is no
more important for that. The tables show the accuracy of both heads on test images, one row per rule:
the mean over the seeds, and half the distance from the lowest to the highest.

Everything that is random follows from the seed: which digits are for training (70%, stratified) and
which for testing, the 12,000 and 3,000 pairs made of them, the first weights and the batches.

"tuned weights" is the plain sum with the best of six fixed weights for the left loss. Each is tried
by a training on 10,000 of the training pairs, and judged by the mean accuracy on the other 2,000; a
last training uses the best one on all pairs. So it costs seven trainings where the others cost one.

    python examples/multi_digits.py                      # all rules, settings and seeds
    python examples/multi_digits.py --jobs 2             # two at a time
    python examples/multi_digits.py --quick              # a few steps, to see that it runs
    python examples/multi_digits.py --methods sum FirstValue UPGrad --settings adam-x100

Writes multi_digits.csv (one line per training, as soon as it is done) and multi_digits.png. With
--read out/multi_digits.csv it prints the tables again, also of a run that was interrupted.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, fields
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import torch
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

import cograd
from cograd import weighting as w

TRAINING, VALIDATION, TEST, BATCH = 12_000, 2_000, 3_000, 128
TUNED = "tuned weights"
CANDIDATES = [0.01, 0.0316, 0.1, 0.316, 1.0, 3.16]  # for the left loss; the right one has 1

# Each takes the seed. None is the plain sum.
METHODS: dict[str, Callable[[int], w.Weighting | None]] = {
    "sum": lambda seed: None,
    TUNED: lambda seed: None,
    "FirstValue": lambda seed: w.FirstValue(),
    "RunningMean": lambda seed: w.RunningMean(),
    "Log": lambda seed: w.Log(),
    "GeometricMean": lambda seed: w.GeometricMean(),
    "Uncertainty": lambda seed: w.Uncertainty(kind="classification"),
    "DWA": lambda seed: w.DWA(),
    "Random": lambda seed: w.Random(seed=seed),
    "FAMO": lambda seed: w.FAMO(),
    "GradNorm": lambda seed: w.GradNorm(),
    "PCGrad": lambda seed: w.PCGrad(seed=seed),
    "GradVac": lambda seed: w.GradVac(seed=seed),
    "MGDA": lambda seed: w.MGDA(),
    "CAGrad": lambda seed: w.CAGrad(),
    "IMTLG": lambda seed: w.IMTLG(),
    "NashMTL": lambda seed: w.NashMTL(),
    "NashMTL, paper": lambda seed: w.NashMTL(scale="paper"),  # of one length, however large the losses are
    "FairGrad": lambda seed: w.FairGrad(),
    "AlignedMTL": lambda seed: w.AlignedMTL(),
    "UPGrad": lambda seed: w.UPGrad(),
    "DualProj": lambda seed: w.DualProj(),
    "ConFIG": lambda seed: w.ConFIG(),
}


Task = tuple[str, str, int, int]  # setting, method, seed, steps


class Setting(NamedTuple):
    """An optimizer, its learning rate, and how large the left loss is."""

    title: str
    optimizer: type[torch.optim.Optimizer]
    lr: float
    scale: float


SETTINGS = {
    "adam": Setting("Adam 1e-3, equal scales", torch.optim.Adam, 1e-3, 1.0),
    "adam-x100": Setting("Adam 1e-3, left loss x100", torch.optim.Adam, 1e-3, 100.0),
    "sgd": Setting("SGD 0.05, equal scales", torch.optim.SGD, 0.05, 1.0),
    "sgd-x30": Setting("SGD 0.05, left loss x30", torch.optim.SGD, 0.05, 30.0),
    "sgd-x100": Setting("SGD 0.05, left loss x100", torch.optim.SGD, 0.05, 100.0),
}


class Pairs(NamedTuple):
    """Images ``[N, 144]`` of two digits each, and which digits they are, ``[N]``."""

    images: Tensor
    left: Tensor
    right: Tensor

    def __getitem__(self, rows: Any) -> Pairs:  # type: ignore[override]
        """Some of the pairs."""
        return Pairs(*(tensor[rows] for tensor in (self.images, self.left, self.right)))


def pairs(digits: Tensor, labels: Tensor, count: int, generator: torch.Generator) -> Pairs:
    """``count`` random pairs of ``digits`` ``[N, 8, 8]``, each overlaid on one canvas."""
    one, other = torch.randint(len(digits), (2, count), generator=generator)
    images = torch.maximum(pad(digits[one], (0, 4, 0, 4)), pad(digits[other], (4, 0, 4, 0)))
    return Pairs(images.flatten(1), labels[one], labels[other])


def load(seed: int) -> tuple[Pairs, Pairs]:
    """Training pairs and test pairs. No digit is in both."""
    digits = load_digits()
    x, test_x, y, test_y = train_test_split(
        digits.images, digits.target, test_size=0.3, stratify=digits.target, random_state=seed
    )
    generator = torch.Generator().manual_seed(seed)
    training, test = (
        pairs(torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels), count, generator)
        for images, labels, count in ((x, y, TRAINING), (test_x, test_y, TEST))
    )
    return training, test


def batches(data: Pairs, generator: torch.Generator) -> Iterator[Pairs]:
    """One epoch in a new order; what is left over at its end is dropped."""
    order = torch.randperm(len(data.left), generator=generator)
    for rows in order[: len(order) // BATCH * BATCH].split(BATCH):
        yield data[rows]


def build(setting: Setting, rule: w.Weighting | None, weights: dict[str, float] | None = None) -> cograd.Joint:
    """The network with its losses, ready to be trained."""

    def losses(m: Any, batch: Pairs) -> dict[str, Tensor]:
        code = m.trunk(batch.images)
        return {
            "left": setting.scale * cross_entropy(m.left(code), batch.left),
            "right": cross_entropy(m.right(code), batch.right),
        }

    return cograd.Joint(
        models={
            "trunk": nn.Sequential(nn.Linear(144, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU()),
            "left": nn.Linear(128, 10),
            "right": nn.Linear(128, 10),
        },
        losses=losses,
        optimizers=partial(setting.optimizer, lr=setting.lr, fused=True),
        weights=weights,
        weighting=rule,
    )


def train(joint: cograd.Joint, data: Pairs, steps: int, seed: int) -> str:
    """Take ``steps`` steps; says why if it had to stop earlier."""
    generator = torch.Generator().manual_seed(1000 + seed)
    while True:
        for batch in batches(data, generator):
            if joint.steps == steps:
                return ""
            try:
                joint.step(batch)
            except cograd.CogradError as error:
                return f"step {joint.steps}: {type(error).__name__}: {error}"
        joint.end_epoch()


@torch.no_grad()
def accuracies(joint: cograd.Joint, data: Pairs) -> tuple[float, float]:
    """The share of left and of right digits that are read correctly."""
    m = joint.models
    code = m.trunk(data.images)
    left, right = (
        (head(code).argmax(1) == labels).float().mean().item()
        for head, labels in ((m.left, data.left), (m.right, data.right))
    )
    return left, right


def tune(setting: Setting, data: Pairs, steps: int, seed: int) -> float:
    """The weight of the left loss with the best mean accuracy on the last pairs of ``data``."""

    def score(weight: float) -> float:
        torch.manual_seed(seed)
        joint = build(setting, None, {"left": weight})
        train(joint, data[:-VALIDATION], steps, seed)
        return mean(accuracies(joint, data[-VALIDATION:]))

    return max(CANDIDATES, key=score)


@dataclass(frozen=True)
class Outcome:
    """What one training, or one search and training, came to."""

    setting: str
    method: str
    seed: int
    left: float
    right: float
    weight: float | None  # of the left loss, if it was searched for
    trainings: int
    seconds: float
    stopped: str


def run(setting: str, method: str, seed: int, steps: int) -> Outcome:
    """Train one rule in one setting, and test it."""
    torch.set_num_threads(1)
    start = time.perf_counter()
    data, test = load(seed)
    weight = tune(SETTINGS[setting], data, steps, seed) if method == TUNED else None
    torch.manual_seed(seed)
    joint = build(SETTINGS[setting], METHODS[method](seed), {"left": weight} if weight else None)
    stopped = train(joint, data, steps, seed)
    left, right = accuracies(joint, test)
    trainings = 1 + (weight is not None) * len(CANDIDATES)
    return Outcome(setting, method, seed, left, right, weight, trainings, time.perf_counter() - start, stopped)


def run_all(todo: list[Task], jobs: int) -> Iterator[Outcome]:
    """The outcomes, in the order in which they are ready."""
    if jobs == 1:
        for task in todo:
            yield run(*task)
        return
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        for future in as_completed([pool.submit(run, *task) for task in todo]):
            yield future.result()


def shown(values: Iterable[float]) -> str:
    """Mean and half the range."""
    values = list(values)
    return f"{mean(values):.3f} ±{(max(values) - min(values)) / 2:.3f}"


def table(setting: str, outcomes: list[Outcome], methods: Iterable[str]) -> Table:
    """One row per rule that has an outcome in this setting."""
    grid = Table(title=SETTINGS[setting].title, title_justify="left", box=box.MARKDOWN)
    grid.add_column("rule")
    for heading in ("left", "right", "worse of the two"):
        grid.add_column(heading, justify="right")
    grid.add_column("remarks")
    for method in methods:
        mine = sorted((o for o in outcomes if (o.setting, o.method) == (setting, method)), key=lambda o: o.seed)
        if not mine:
            continue
        found = [f"{o.weight:g}" for o in mine if o.weight]
        remarks = [f"left weight {', '.join(found)}; {mine[0].trainings} trainings per seed"] if found else []
        remarks += [f"seed {o.seed} stopped at {o.stopped.split(': ')[0]}" for o in mine if o.stopped]
        grid.add_row(
            method,
            shown(o.left for o in mine),
            shown(o.right for o in mine),
            shown(min(o.left, o.right) for o in mine),
            "; ".join(remarks),
        )
    return grid


def summary(outcomes: list[Outcome], settings: list[str], methods: list[str]) -> Table:
    """The worse of the two accuracies in every setting; in brackets where a training had to stop."""
    grid = Table(title="The worse of the two accuracies", title_justify="left", box=box.MARKDOWN)
    grid.add_column("rule")
    for setting in settings:
        grid.add_column(setting, justify="right")
    for method in methods:
        cells = []
        for setting in settings:
            mine = [o for o in outcomes if (o.setting, o.method) == (setting, method)]
            cell = shown(min(o.left, o.right) for o in mine) if mine else ""
            cells.append(f"({cell})" if any(o.stopped for o in mine) else cell)
        grid.add_row(method, *cells)
    return grid


def read(path: Path) -> list[Outcome]:
    """The outcomes of an earlier run."""
    with path.open(newline="") as file:
        return [
            Outcome(
                row["setting"],
                row["method"],
                int(row["seed"]),
                float(row["left"]),
                float(row["right"]),
                float(row["weight"]) if row["weight"] else None,
                int(row["trainings"]),
                float(row["seconds"]),
                row["stopped"],
            )
            for row in csv.DictReader(file)
        ]


def draw(path: Path, outcomes: list[Outcome], settings: list[str], methods: list[str]) -> None:
    """A panel per setting; per rule the mean accuracy of both heads, and a bar from worst to best seed."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(
        1, len(settings), figsize=(2 + 2.6 * len(settings), 1.2 + 0.24 * len(methods)), sharey=True, squeeze=False
    )
    places = {method: -i for i, method in enumerate(methods)}
    for panel, setting in zip(panels[0], settings, strict=True):
        for head, colour, shift in (("left", "tab:blue", 0.15), ("right", "tab:orange", -0.15)):
            for method, place in places.items():
                values = [getattr(o, head) for o in outcomes if (o.setting, o.method) == (setting, method)]
                if values:
                    panel.plot([min(values), max(values)], [place + shift] * 2, color=colour, lw=2)
                    panel.plot(mean(values), place + shift, "o", color=colour, ms=4)
            panel.plot([], [], "o-", color=colour, label=f"{head} digit")
        panel.set_title(SETTINGS[setting].title, fontsize="small")
        panel.set_xlim(0, 1.03)
        panel.set_xlabel("test accuracy")
        panel.grid(alpha=0.3)
    panels[0, 0].set_yticks(list(places.values()), list(places))
    panels[0, 0].legend(loc="lower left", fontsize="small")
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    plt.close(figure)


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description="Every rule on two overlaid digits.")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS), metavar="NAME")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), metavar="NAME")
    parser.add_argument("--seeds", type=int, default=3, help="how many: 0, 1, ... (default 3)")
    parser.add_argument("--steps", type=int, default=1500, help="per training (default 1500)")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at the same time (default 1)")
    parser.add_argument("--quick", action="store_true", help="one seed and 20 steps")
    parser.add_argument("--read", type=Path, metavar="CSV", help="train nothing; show what an earlier run wrote")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder to write into (default out)")
    asked = parser.parse_args(argv)
    if asked.quick:
        asked.seeds, asked.steps = 1, 20
    return asked


def main(argv: list[str] | None = None) -> list[Outcome]:
    """Train what was asked for; print a table per setting, write the CSV file and the picture."""
    asked = arguments(argv)
    asked.out.mkdir(parents=True, exist_ok=True)
    screen = Console(width=None if sys.stdout.isatty() else 140)
    if asked.read:
        outcomes = read(asked.read)
    else:
        seeds = range(asked.seeds)
        todo = [(s, m, seed, asked.steps) for s in asked.settings for m in asked.methods for seed in seeds]
        outcomes = train_all(todo, asked.jobs, asked.out / "multi_digits.csv", screen)
    for setting in asked.settings:
        screen.print(table(setting, outcomes, asked.methods))
    screen.print(summary(outcomes, asked.settings, asked.methods))
    for outcome in outcomes:
        if outcome.stopped:
            screen.print(f"{outcome.setting}, {outcome.method}, seed {outcome.seed}: {outcome.stopped}")
    draw(asked.out / "multi_digits.png", outcomes, asked.settings, asked.methods)
    screen.print(
        "Accuracies: mean ± half the range over the seeds; in brackets where a training had to stop. "
        f"Written to {asked.out}: multi_digits.png" + ("." if asked.read else ", multi_digits.csv.")
    )
    return outcomes


def train_all(todo: list[Task], jobs: int, path: Path, screen: Console) -> list[Outcome]:
    """The outcomes; each is written to ``path`` as soon as it is there."""
    outcomes = []
    with (
        path.open("w", newline="") as file,
        Progress(console=screen, disable=not screen.is_terminal, transient=True) as progress,
    ):
        bar = progress.add_task("training", total=len(todo))
        writer = csv.DictWriter(file, [field.name for field in fields(Outcome)])
        writer.writeheader()
        for outcome in run_all(todo, jobs):
            outcomes.append(outcome)
            writer.writerow(asdict(outcome))
            file.flush()
            progress.update(bar, advance=1, description=f"{outcome.setting} {outcome.method}")
            if not screen.is_terminal:
                done = f"[{len(outcomes)}/{len(todo)}]"
                print(
                    f"{done} {outcome.setting} {outcome.method} seed {outcome.seed}: left {outcome.left:.3f} "
                    f"right {outcome.right:.3f} ({outcome.seconds:.1f} s)",
                    flush=True,
                )
    return outcomes


if __name__ == "__main__":
    main()
