"""What a recipe consists of, and the loop that all of them share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cograd import Joint, StepReport

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Batch = Any  # what the recipe's losses function takes


@dataclass(frozen=True)
class Recipe:
    """A small complete system on real data, ready to train.

    Attributes:
        joint: models, losses, optimizers, phases.
        batches: epoch -> its batches, the same ones each time it is called for that epoch.
        epochs: how many to train for.
        metric: what ``score`` measures, in words and with its unit.
        score: the metric on held-out data, with the models as they are now.
        baseline: the metric of the trivial answer.
        trivial: what the trivial answer is, in a few words.
        higher_is_better: whether a higher metric is better.
        by_hand: ``by_hand(models, optimizers)`` gives ``step(batch)``: the same update in plain PyTorch.
        draw: draws what the models can do now into a matplotlib figure; None to draw the curves of the losses.
    """

    joint: Joint
    batches: Callable[[int], Iterator[Batch]]
    epochs: int
    metric: str
    score: Callable[[], float]
    baseline: float
    trivial: str
    by_hand: Callable[[Any, Any], Callable[[Batch], object]]
    higher_is_better: bool = True
    draw: Callable[[Figure], None] | None = field(default=None)

    @property
    def steps(self) -> int:
        """Batches in all epochs."""
        return self.epochs * sum(1 for _ in self.batches(0))


def train(recipe: Recipe, on_step: Callable[[int, StepReport], None] | None = None) -> float:
    """Train for ``recipe.epochs`` epochs.

    Args:
        recipe: what to train.
        on_step: called after each step with the number of steps done and the report.

    Returns:
        The metric afterwards.

    >>> from cograd.recipes import build
    >>> recipe = build("fusion")
    >>> train(recipe) > recipe.baseline
    True
    """
    for epoch in range(recipe.epochs):
        for batch in recipe.batches(epoch):
            report = recipe.joint.step(batch)
            if on_step is not None:
                on_step(recipe.joint.steps, report)
    return recipe.score()


def main(build: Callable[[], Recipe]) -> None:
    """Train one recipe and say how well it does: what a copied recipe runs as a script."""
    recipe = build()

    def show(step: int, report: StepReport) -> None:
        if step % max(1, recipe.steps // 10) == 0:
            print(f"step {step:5d}/{recipe.steps}  {report}")

    score = train(recipe, show)
    print(recipe.joint.plan())
    print(f"{recipe.metric}: {score:.4g}  ({recipe.trivial}: {recipe.baseline:.4g})")
