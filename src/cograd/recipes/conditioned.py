"""A painter that completes a digit from its top half and from what a reader believes it is (scheme 9).

The reader sees the top half and says how likely each digit is. The painter gets those probabilities
besides the top half itself. Its loss trains the reader too, in the same backward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

import cograd
from cograd.recipes import Minibatches, Recipe, draw_images, load, main, mlp, predicting, rmse

Batch = tuple[Tensor, ...]
HALF = 32  # pixels


def complete(m: Any, top: Tensor) -> tuple[Tensor, Tensor]:
    """What the reader believes, as logits ``[N, 10]``, and the bottom halves that the painter makes of it."""
    belief = m.reader(top)
    return belief, m.painter(torch.cat([belief.softmax(1), top], 1))


def losses(m: Any, batch: Batch) -> cograd.Losses:
    """How wrong the reader is, and how far off the painted half."""
    image, digit = batch
    belief, painted = complete(m, image[:, :HALF])
    return {
        "read": cross_entropy(belief, digit),
        "paint": mse_loss(painted, image[:, HALF:]),
    }


def build(seed: int = 0) -> Recipe:
    """Models, optimizers, data, and how to judge the result."""
    torch.manual_seed(seed)
    data = load("digits", seed)
    joint = cograd.Joint(
        models={"reader": mlp(HALF, 64, 10), "painter": mlp(10 + HALF, 128, HALF).append(nn.Tanh())},
        losses=losses,
        optimizers=partial(torch.optim.Adam, lr=2e-3, fused=True),
    )
    top, bottom = data.test_x[:, :HALF], data.test_x[:, HALF:]

    def painted(top: Tensor) -> Tensor:
        with predicting(joint) as m:
            return complete(m, top)[1]

    def draw(figure: Any) -> None:
        half = torch.full((10, HALF), -1.0)
        rows = [torch.cat([top[:10], half], 1), torch.cat([top[:10], painted(top[:10])], 1), data.test_x[:10]]
        draw_images(figure, rows, ["given", "completed", "real"])

    return Recipe(
        joint=joint,
        batches=Minibatches(data.x, data.y, size=32, seed=seed),
        epochs=25,
        metric="root mean squared error of a pixel (white -1, black 1)",
        score=lambda: rmse(painted(top), bottom),
        baseline=rmse(data.x[:, HALF:].mean(0), bottom),
        trivial="the mean bottom half",
        higher_is_better=False,
        by_hand=by_hand,
        draw=draw,
    )


def by_hand(m: Any, optimizers: Any) -> Callable[[Batch], object]:
    """The same step in plain PyTorch."""

    def step(batch: Batch) -> object:
        image, digit = batch
        belief, painted = complete(m, image[:, :HALF])
        read, paint = cross_entropy(belief, digit), mse_loss(painted, image[:, HALF:])
        for optimizer in optimizers.values():
            optimizer.zero_grad()
        (read + paint).backward()
        for optimizer in optimizers.values():
            optimizer.step()
        return read.detach(), paint.detach()

    return step


if __name__ == "__main__":
    main(build)
