"""The table that ends a demo."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cograd.cli._passes import passes
from cograd.cli._trial import Trial, number

_WIDE = 140  # columns from which on most rows need no more than two lines


def table(trials: Sequence[Trial], width: int) -> Table:
    """One row per recipe. A recipe that does no better than its trivial answer says so in words.

    Args:
        trials: the recipes that are finished.
        width: of the screen. On a narrow one, models and losses stand below the recipe's name, and the
            trivial answer to beat below the metric.
    """
    wide = width >= _WIDE
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), collapse_padding=True)
    grid.add_column("recipe", overflow="fold", no_wrap=wide)
    if wide:
        grid.add_column("models", overflow="fold")
        grid.add_column("losses", overflow="fold")
    grid.add_column("passes")
    grid.add_column("metric", overflow="fold")
    grid.add_column("result", justify="right", no_wrap=True)
    if wide:
        grid.add_column("to beat", overflow="fold")
    for heading in ("ms", "by hand", "ratio"):
        grid.add_column(heading, justify="right", no_wrap=True)
    for trial in trials:
        grid.add_row(*(_wide_row(trial) if wide else _narrow_row(trial)), *_times(trial))
        if not wide:
            grid.add_section()
    return grid


def _wide_row(trial: Trial) -> list[str | Text]:
    recipe = trial.recipe
    return [
        Text(trial.name, style="bold"),
        _models(trial),
        _losses(trial),
        passes(recipe.joint.plan()),
        recipe.metric,
        _result(trial),
        f"{_to_beat(trial)} {recipe.trivial}",
    ]


def _narrow_row(trial: Trial) -> list[str | Text]:
    recipe = trial.recipe
    return [
        Text.assemble((trial.name, "bold"), f"\nmodels: {_models(trial)}\nlosses: {_losses(trial)}"),
        passes(recipe.joint.plan()),
        f"{recipe.metric}\n({recipe.trivial})",
        Text.assemble(_result(trial), f"\n{_to_beat(trial)}"),
    ]


def _models(trial: Trial) -> str:
    return ", ".join(trial.recipe.joint.models)


def _losses(trial: Trial) -> str:
    return ", ".join(trial.curves)


def _result(trial: Trial) -> Text:
    if trial.beats_baseline:
        return Text(number(trial.score), style="green")
    return Text(f"{number(trial.score)} MISS", style="bold red")


def _to_beat(trial: Trial) -> str:
    return f"{'>' if trial.recipe.higher_is_better else '<'} {number(trial.recipe.baseline)}"


def _times(trial: Trial) -> list[str]:
    ratio = trial.seconds / trial.seconds_by_hand
    return [number(trial.seconds * 1e3), number(trial.seconds_by_hand * 1e3), f"{ratio:.2f}"]


def print_verdict(screen: Console, trials: Sequence[Trial]) -> None:
    """What the columns mean, and which recipes missed."""
    screen.print(
        "passes: backward passes per step, one term per phase. ms: median time of a step on one thread, beside the "
        "same step written by hand in plain PyTorch.",
        style="dim",
    )
    missed = [trial for trial in trials if not trial.beats_baseline]
    for trial in missed:
        screen.print(f"{trial.name} does no better than its trivial answer. {trial.outcome}", style="bold red")
    if not missed:
        subject = "Every recipe" if len(trials) > 1 else trials[0].name
        screen.print(f"{subject} does better than its trivial answer.", style="green")
