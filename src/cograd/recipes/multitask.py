"""One encoder, three heads: which digit, odd or even, and the image again (scheme 4).

The encoder's gradient is that of all three losses, each head's that of its own. Since every loss
may train every model that it reaches, one backward pass over all of them is enough.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

import cograd
from cograd.recipes import Minibatches, Recipe, accuracy, draw_images, load, main, majority, mlp, predicting

Batch = tuple[Tensor, ...]


def losses(m: Any, batch: Batch) -> cograd.Losses:
    """How wrong each head is about the same code."""
    image, digit = batch
    code = m.encoder(image)
    return {
        "digit": cross_entropy(m.digit(code), digit),
        "parity": cross_entropy(m.parity(code), digit % 2),
        "image": mse_loss(m.decoder(code), image),
    }


def build(seed: int = 0) -> Recipe:
    """Models, optimizers, data, and how to judge the result."""
    torch.manual_seed(seed)
    data = load("digits", seed)
    joint = cograd.Joint(
        models={
            "encoder": nn.Sequential(nn.Linear(64, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 16)),
            "digit": nn.Linear(16, 10),
            "parity": nn.Linear(16, 2),
            "decoder": mlp(16, 128, 64),
        },
        losses=losses,
        optimizers=partial(torch.optim.Adam, lr=2e-3, fused=True),
    )

    def score() -> float:
        with predicting(joint) as m:
            code = m.encoder(data.test_x)
            return min(accuracy(m.digit(code), data.test_y), accuracy(m.parity(code), data.test_y % 2))

    def draw(figure: Any) -> None:
        with predicting(joint) as m:
            draw_images(figure, [data.test_x[:10], m.decoder(m.encoder(data.test_x[:10]))], ["image", "from its code"])

    return Recipe(
        joint=joint,
        batches=Minibatches(data.x, data.y, size=32, seed=seed),
        epochs=20,
        metric="accuracy, the lower of digit and parity",
        score=score,
        baseline=majority(data.y % 2, data.test_y % 2),
        trivial="the most common parity",
        by_hand=by_hand,
        draw=draw,
    )


def by_hand(m: Any, optimizers: Any) -> Callable[[Batch], object]:
    """The same step in plain PyTorch."""

    def step(batch: Batch) -> object:
        image, digit = batch
        code = m.encoder(image)
        loss = cross_entropy(m.digit(code), digit) + cross_entropy(m.parity(code), digit % 2)
        loss = loss + mse_loss(m.decoder(code), image)
        for optimizer in optimizers.values():
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers.values():
            optimizer.step()
        return loss.detach()

    return step


if __name__ == "__main__":
    main(build)
