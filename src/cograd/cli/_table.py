"""The table that ends a demo."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cograd.cli._passes import passes
from cograd.cli._trial import Trial, number


def table(trials: Sequence[Trial]) -> Table:
    """One row per recipe. A recipe that does no better than its trivial answer says so in words."""
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    grid.add_column("recipe", no_wrap=True)
    grid.add_column("models")
    grid.add_column("losses")
    grid.add_column("passes", justify="center")
    grid.add_column("metric")
    grid.add_column("result", justify="right")
    grid.add_column("trivial answer")
    grid.add_column("ms", justify="right", no_wrap=True)
    grid.add_column("by hand", justify="right")
    grid.add_column("ratio", justify="right", no_wrap=True)
    for trial in trials:
        recipe = trial.recipe
        result = Text(number(trial.score), style="green")
        if not trial.beats_baseline:
            result = Text(f"{number(trial.score)} MISS", style="bold red")
        grid.add_row(
            Text(trial.name, style="bold"),
            ", ".join(recipe.joint.models),
            ", ".join(trial.curves),
            passes(recipe.joint.plan()),
            recipe.metric,
            result,
            f"{number(recipe.baseline)} {recipe.trivial}",
            f"{trial.seconds * 1e3:.2f}",
            f"{trial.seconds_by_hand * 1e3:.2f}",
            f"{trial.seconds / trial.seconds_by_hand:.2f}",
        )
    return grid


def print_verdict(console: Console, trials: Sequence[Trial]) -> None:
    """What the columns mean, and which recipes missed."""
    console.print(
        "passes: backward passes per step, one term per phase. ms: median time of a step, beside the same step written "
        "by hand in plain PyTorch.",
        style="dim",
    )
    missed = [trial for trial in trials if not trial.beats_baseline]
    for trial in missed:
        console.print(f"MISS {trial.name}: no better than the trivial answer. {trial.outcome}", style="bold red")
    if not missed:
        subject = f"All {len(trials)} recipes do" if len(trials) > 1 else f"{trials[0].name} does"
        console.print(f"{subject} better than the trivial answer.", style="green")
