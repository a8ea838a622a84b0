"""A weighted sum of two losses with a shared trunk: a value, and whether it is high (scheme 10).

The trunk reads ten measures of a diabetes patient. One head predicts how far the disease progresses
in a year (weight 0.7), the other whether that is above the average (weight 0.3).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss

import cograd
from cograd.recipes import Minibatches, Recipe, load, main, mlp, predicting, rmse

Batch = tuple[Tensor, ...]


def losses(m: Any, batch: Batch) -> cograd.Losses:
    """How wrong each head is about the same code."""
    x, progression = batch
    code = m.trunk(x)
    return {
        "value": mse_loss(m.value(code).squeeze(1), progression),
        "high": binary_cross_entropy_with_logits(m.high(code).squeeze(1), (progression > 0).float()),
    }


def build(seed: int = 0) -> Recipe:
    """Models, optimizers, data, and how to judge the result."""
    torch.manual_seed(seed)
    data = load("diabetes", seed)
    joint = cograd.Joint(
        models={"trunk": mlp(10, 32, 16).append(nn.ReLU()), "value": nn.Linear(16, 1), "high": nn.Linear(16, 1)},
        losses=losses,
        weights={"value": 0.7, "high": 0.3},
        optimizers=partial(torch.optim.Adam, lr=1e-3, fused=True),
    )

    def score() -> float:
        with predicting(joint) as m:
            return rmse(m.value(m.trunk(data.test_x)).squeeze(1), data.test_y)

    return Recipe(
        joint=joint,
        batches=Minibatches(data.x, data.y, size=32, seed=seed),
        epochs=40,
        metric="root mean squared error, in standard deviations",
        score=score,
        baseline=rmse(data.y.mean(), data.test_y),
        trivial="the mean progression",
        higher_is_better=False,
        by_hand=by_hand,
    )


def by_hand(m: Any, optimizers: Any) -> Callable[[Batch], object]:
    """The same step in plain PyTorch."""

    def step(batch: Batch) -> object:
        x, progression = batch
        code = m.trunk(x)
        value = mse_loss(m.value(code).squeeze(1), progression)
        high = binary_cross_entropy_with_logits(m.high(code).squeeze(1), (progression > 0).float())
        for optimizer in optimizers.values():
            optimizer.zero_grad()
        (0.7 * value + 0.3 * high).backward()
        for optimizer in optimizers.values():
            optimizer.step()
        return value.detach(), high.detach()

    return step


if __name__ == "__main__":
    main(build)
