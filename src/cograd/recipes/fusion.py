"""Two encoders for two groups of features, concatenated into a third model (scheme 8).

Of each tumour's ten measures one encoder sees the means over all cells, the other how much they
vary and their worst values. The diagnosis is made from both codes, and its loss trains all three.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import cograd
from cograd.recipes import Minibatches, Recipe, accuracy, load, main, majority, mlp, predicting

Batch = tuple[Tensor, ...]
MEANS = 10  # the first ten of the thirty features


def diagnose(m: Any, x: Tensor) -> Tensor:
    """Logits ``[N, 2]`` for tumours ``[N, 30]``."""
    logits: Tensor = m.fusion(torch.cat([m.typical(x[:, :MEANS]), m.spread(x[:, MEANS:])], 1))
    return logits


def losses(m: Any, batch: Batch) -> cograd.Losses:
    """How wrong the diagnosis is."""
    x, benign = batch
    return {"diagnosis": cross_entropy(diagnose(m, x), benign)}


def build(seed: int = 0) -> Recipe:
    """Models, optimizers, data, and how to judge the result."""
    torch.manual_seed(seed)
    data = load("breast_cancer", seed)
    joint = cograd.Joint(
        models={
            "typical": mlp(10, 16, 8).append(nn.ReLU()),
            "spread": mlp(20, 16, 8).append(nn.ReLU()),
            "fusion": mlp(16, 16, 2),
        },
        losses=losses,
        optimizers=partial(torch.optim.Adam, lr=1e-3, fused=True),
    )

    def score() -> float:
        with predicting(joint) as m:
            return accuracy(diagnose(m, data.test_x), data.test_y)

    return Recipe(
        joint=joint,
        batches=Minibatches(data.x, data.y, size=32, seed=seed),
        epochs=30,
        metric="accuracy",
        score=score,
        baseline=majority(data.y, data.test_y),
        trivial="always benign",
        by_hand=by_hand,
    )


def by_hand(m: Any, optimizers: Any) -> Callable[[Batch], object]:
    """The same step in plain PyTorch."""

    def step(batch: Batch) -> object:
        x, benign = batch
        loss = cross_entropy(diagnose(m, x), benign)
        for optimizer in optimizers.values():
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers.values():
            optimizer.step()
        return loss.detach()

    return step


if __name__ == "__main__":
    main(build)
