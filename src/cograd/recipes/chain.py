"""A denoiser whose output a classifier reads: one model's output is the next one's input (scheme 5).

The classifier's loss trains the denoiser too, so it learns to keep what tells digits apart. One
backward pass goes through both.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, mse_loss

import cograd
from cograd.recipes import Minibatches, Recipe, accuracy, draw_images, load, main, majority, mlp, predicting

Batch = tuple[Tensor, ...]
NOISE = 0.7  # standard deviation; white is -1, black is 1


def losses(m: Any, batch: Batch) -> cograd.Losses:
    """How far the denoised images are from the clean ones, and how badly they are read."""
    clean, digit = batch
    denoised = m.denoiser(clean + NOISE * torch.randn_like(clean))
    return {
        "denoise": mse_loss(denoised, clean),
        "classify": cross_entropy(m.classifier(denoised), digit),
    }


def build(seed: int = 0) -> Recipe:
    """Models, optimizers, data, and how to judge the result."""
    torch.manual_seed(seed)
    data = load("digits", seed)
    noisy = data.test_x + NOISE * torch.randn_like(data.test_x)
    joint = cograd.Joint(
        models={"denoiser": mlp(64, 128, 64), "classifier": mlp(64, 64, 10)},
        losses=losses,
        optimizers=partial(torch.optim.Adam, lr=2e-3, fused=True),
    )

    def score() -> float:
        with predicting(joint) as m:
            return accuracy(m.classifier(m.denoiser(noisy)), data.test_y)

    def draw(figure: Any) -> None:
        with predicting(joint) as m:
            rows = [noisy[:10], m.denoiser(noisy[:10]), data.test_x[:10]]
        draw_images(figure, rows, ["noisy", "denoised", "clean"])

    return Recipe(
        joint=joint,
        batches=Minibatches(data.x, data.y, size=32, seed=seed),
        epochs=20,
        metric="accuracy on noisy digits",
        score=score,
        baseline=majority(data.y, data.test_y),
        trivial="always the most common digit",
        by_hand=by_hand,
        draw=draw,
    )


def by_hand(m: Any, optimizers: Any) -> Callable[[Batch], object]:
    """The same step in plain PyTorch."""

    def step(batch: Batch) -> object:
        clean, digit = batch
        denoised = m.denoiser(clean + NOISE * torch.randn_like(clean))
        denoise, classify = mse_loss(denoised, clean), cross_entropy(m.classifier(denoised), digit)
        for optimizer in optimizers.values():
            optimizer.zero_grad()
        (denoise + classify).backward()
        for optimizer in optimizers.values():
            optimizer.step()
        return denoise.detach(), classify.detach()

    return step


if __name__ == "__main__":
    main(build)
