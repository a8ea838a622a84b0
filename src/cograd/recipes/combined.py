"""Two models whose outputs are added up to one prediction, with one loss (scheme 6).

How far diabetes progresses in a year, as the sum of what the body (age, sex, weight, blood
pressure) and the blood serum say. Each model learns what the other leaves unexplained.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

import cograd
from cograd.recipes import Minibatches, Recipe, load, main, mlp, predicting, rmse

Batch = tuple[Tensor, ...]
BODY = 4  # the first four of the ten features


def predict(m: Any, x: Tensor) -> Tensor:
    """The sum of both models' outputs ``[N]`` for patients ``[N, 10]``."""
    total: Tensor = m.body(x[:, :BODY]) + m.blood(x[:, BODY:])
    return total.squeeze(1)


def losses(m: Any, batch: Batch) -> cograd.Losses:
    """The error of the sum. It trains both models."""
    x, progression = batch
    return {"progression": mse_loss(predict(m, x), progression)}


def build(seed: int = 0) -> Recipe:
    """Models, optimizers, data, and how to judge the result."""
    torch.manual_seed(seed)
    data = load("diabetes", seed)
    joint = cograd.Joint(
        models={"body": mlp(4, 16, 1), "blood": mlp(6, 16, 1)},
        losses=losses,
        optimizers=partial(torch.optim.Adam, lr=2e-3, fused=True),
    )

    def score() -> float:
        with predicting(joint) as m:
            return rmse(predict(m, data.test_x), data.test_y)

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
        loss = mse_loss(predict(m, x), progression)
        for optimizer in optimizers.values():
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers.values():
            optimizer.step()
        return loss.detach()

    return step


if __name__ == "__main__":
    main(build)
