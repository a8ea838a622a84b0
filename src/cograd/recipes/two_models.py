"""Two independent models, each with its own data and its own loss, trained side by side (scheme 1).

One net learns to tell three wines apart, the other to tell whether a tumour is benign. Neither
loss reaches the other's model, so one backward pass over both costs no more than one over each.
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

Batch = dict[str, tuple[Tensor, Tensor]]


def losses(m: Any, batch: Batch) -> cograd.Losses:
    """How wrong each net is about its own examples. Each reaches one model, so that is the one it trains."""
    (wine, kind), (tumour, benign) = batch["wine"], batch["cancer"]
    return {
        "wine": cross_entropy(m.sommelier(wine), kind),
        "cancer": cross_entropy(m.doctor(tumour), benign),
    }


def build(seed: int = 0) -> Recipe:
    """Models, optimizers, data, and how to judge the result."""
    torch.manual_seed(seed)
    wine, cancer = load("wine", seed), load("breast_cancer", seed)
    joint = cograd.Joint(
        models={"sommelier": mlp(13, 32, 3), "doctor": mlp(30, 32, 2)},
        losses=losses,
        optimizers=partial(torch.optim.Adam, lr=1e-3, fused=True),
    )

    def score() -> float:
        with predicting(joint) as m:
            return (
                accuracy(m.sommelier(wine.test_x), wine.test_y) + accuracy(m.doctor(cancer.test_x), cancer.test_y)
            ) / 2

    return Recipe(
        joint=joint,
        batches=cograd.zip_loaders(
            wine=Minibatches(wine.x, wine.y, size=10, seed=seed),
            cancer=Minibatches(cancer.x, cancer.y, size=32, seed=seed),
        ),
        epochs=40,
        metric="accuracy, the mean of both",
        score=score,
        baseline=(majority(wine.y, wine.test_y) + majority(cancer.y, cancer.test_y)) / 2,
        trivial="always the most common class",
        by_hand=by_hand,
    )


def by_hand(m: Any, optimizers: Any) -> Callable[[Batch], object]:
    """The same step in plain PyTorch."""

    def step(batch: Batch) -> object:
        (wine, kind), (tumour, benign) = batch["wine"], batch["cancer"]
        wine_loss = cross_entropy(m.sommelier(wine), kind)
        cancer_loss = cross_entropy(m.doctor(tumour), benign)
        for optimizer in optimizers.values():
            optimizer.zero_grad()
        (wine_loss + cancer_loss).backward()
        for optimizer in optimizers.values():
            optimizer.step()
        return wine_loss.detach(), cancer_loss.detach()

    return step


if __name__ == "__main__":
    main(build)
