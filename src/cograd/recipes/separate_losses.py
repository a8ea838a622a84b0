"""Two models with a loss each, summed: one reads the top of a digit, the other the bottom (scheme 7).

Each has to name the digit alone, so the losses share data and labels but no parameter. Their sum
takes one backward pass. To read a whole digit, the probabilities of both are multiplied.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

import cograd
from cograd.recipes import Minibatches, Recipe, accuracy, load, main, majority, mlp, predicting

Batch = tuple[Tensor, ...]
HALF = 32  # pixels


def losses(m: Any, batch: Batch) -> cograd.Losses:
    """How wrong each model is about the digit from its half alone."""
    image, digit = batch
    return {
        "top": cross_entropy(m.top(image[:, :HALF]), digit),
        "bottom": cross_entropy(m.bottom(image[:, HALF:]), digit),
    }


def build(seed: int = 0) -> Recipe:
    """Models, optimizers, data, and how to judge the result."""
    torch.manual_seed(seed)
    data = load("digits", seed)
    joint = cograd.Joint(
        models={"top": mlp(HALF, 64, 10), "bottom": mlp(HALF, 64, 10)},
        losses=losses,
        optimizers=partial(torch.optim.Adam, lr=2e-3, fused=True),
    )

    def score() -> float:
        with predicting(joint) as m:
            top, bottom = m.top(data.test_x[:, :HALF]), m.bottom(data.test_x[:, HALF:])
            return accuracy(top.log_softmax(1) + bottom.log_softmax(1), data.test_y)

    return Recipe(
        joint=joint,
        batches=Minibatches(data.x, data.y, size=32, seed=seed),
        epochs=20,
        metric="accuracy of both together",
        score=score,
        baseline=majority(data.y, data.test_y),
        trivial="always the most common digit",
        by_hand=by_hand,
    )


def by_hand(m: Any, optimizers: Any) -> Callable[[Batch], object]:
    """The same step in plain PyTorch."""

    def step(batch: Batch) -> object:
        image, digit = batch
        top = cross_entropy(m.top(image[:, :HALF]), digit)
        bottom = cross_entropy(m.bottom(image[:, HALF:]), digit)
        for optimizer in optimizers.values():
            optimizer.zero_grad()
        (top + bottom).backward()
        for optimizer in optimizers.values():
            optimizer.step()
        return top.detach(), bottom.detach()

    return step


if __name__ == "__main__":
    main(build)
