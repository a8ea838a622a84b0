"""One recipe, tried out: trained, judged, and timed against the same loop by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from cograd.cli._race import STEPS as RACE_STEPS
from cograd.cli._race import race
from cograd.recipes import Recipe, build, train
from cograd.training import Run

Curve = tuple[list[int], list[float]]  # steps, values


@dataclass(frozen=True)
class Trial:
    """What came out.

    Attributes:
        name: of the recipe.
        recipe: with its models trained.
        score: its metric.
        curves: raw loss -> the steps in which it was evaluated, and its values.
        seconds: median time of a step.
        seconds_by_hand: median time of the same step in plain PyTorch.
    """

    name: str
    recipe: Recipe
    score: float
    curves: Mapping[str, Curve]
    seconds: float
    seconds_by_hand: float

    @property
    def beats_baseline(self) -> bool:
        """Whether the models do better than the trivial answer. A score that is NaN does not."""
        if self.recipe.higher_is_better:
            return self.score > self.recipe.baseline
        return self.score < self.recipe.baseline

    @property
    def outcome(self) -> str:
        """The metric beside its baseline, in words."""
        miss = "" if self.beats_baseline else " MISS"
        trivial = f"{self.recipe.trivial}: {number(self.recipe.baseline)}"
        return f"{self.recipe.metric}: {number(self.score)}{miss} ({trivial})"


def try_out(name: str, advance: Callable[[str, float], None]) -> Trial:
    """Train the recipe and time it.

    Args:
        name: of the recipe.
        advance: called with what is being done and the share of the work that is done, 0 to 1.
    """
    advance("building", 0.0)
    recipe = build(name)
    steps = recipe.steps
    seen: dict[str, tuple[list[int], list[Tensor]]] = {}

    def on_step(run: Run) -> None:
        for loss, value in run.report.losses.items() if run.report else ():
            at, values = seen.setdefault(loss, ([], []))
            at.append(run.step)
            values.append(value)
        advance("training", run.step / (steps + 2 * RACE_STEPS))

    score = train(recipe, on_step)
    seconds, by_hand = race(
        lambda: build(name),
        lambda share: advance("timing", (steps + share * 2 * RACE_STEPS) / (steps + 2 * RACE_STEPS)),
    )
    curves = {loss: (at, [value.item() for value in values]) for loss, (at, values) in seen.items()}
    return Trial(name, recipe, score, curves, seconds, by_hand)


def number(value: float) -> str:
    """Three digits, without an exponent where it can be avoided."""
    return f"{value:.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"
