"""What a recipe consists of, and how all of them are trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cograd import Joint, fit
from cograd.training._run import Callback

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Batch = Any  # what the recipe's losses function takes


@dataclass(frozen=True)
class Recipe:
    """A small complete system on real data, ready to train.

    Attributes:
        joint: models, losses, optimizers, phases.
        batches: an epoch of them each time it is iterated.
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
    batches: Iterable[Batch]
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
        return self.epochs * len(self.batches)  # type: ignore[arg-type]  # all of them have a length


def train(recipe: Recipe, on_step: Callback | None = None, progress: bool = False) -> float:
    """Train for ``recipe.epochs`` epochs.

    Args:
        recipe: what to train.
        on_step: called after each step with the run as it is then.
        progress: show how it goes.

    Returns:
        The metric afterwards.

    >>> from cograd.recipes import build
    >>> recipe = build("fusion")
    >>> train(recipe) > recipe.baseline
    True
    """
    on = {} if on_step is None else {"step": on_step}
    fit(recipe.joint, recipe.batches, epochs=recipe.epochs, on=on, progress=progress)
    return recipe.score()


def main(build: Callable[[], Recipe]) -> None:
    """Train one recipe and say how well it does: what a copied recipe runs as a script."""
    recipe = build()
    score = train(recipe, progress=True)
    print(recipe.joint.plan())
    print(f"{recipe.metric}: {score:.4g}  ({recipe.trivial}: {recipe.baseline:.4g})")
