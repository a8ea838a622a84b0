"""GAN on handwritten digits: discriminator and generator take turns (scheme 3).

Each phase evaluates the losses anew, so the generator meets the discriminator that has just
learned. In the generator's phase the discriminator is frozen, and the other way round.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

import cograd
from cograd.recipes import Recipe, load, main, minibatches

NOISE = 16


def mlp(inputs: int, outputs: int) -> nn.Sequential:
    """Two hidden layers."""
    return nn.Sequential(
        nn.Linear(inputs, 128), nn.LeakyReLU(0.2), nn.Linear(128, 128), nn.LeakyReLU(0.2), nn.Linear(128, outputs)
    )


def bce(logits: Tensor, target: float) -> Tensor:
    """How far ``logits`` are from saying ``target`` for every example."""
    return binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))


def losses(m: Any, batch: tuple[Tensor, ...]) -> cograd.Losses:
    """Both losses. Only the one whose turn it is gets evaluated."""
    (real,) = batch
    fake = m.gen(torch.randn(len(real), NOISE))
    return {
        "disc": lambda: bce(m.disc(real), 1.0) + bce(m.disc(fake), 0.0),
        "gen": lambda: bce(m.disc(fake), 1.0),
    }


def build(seed: int = 0) -> Recipe:
    """Models, optimizers, phases, data, and how to judge the result."""
    torch.manual_seed(seed)
    data = load("digits", seed)
    joint = cograd.Joint(
        models={"gen": nn.Sequential(mlp(NOISE, 64), nn.Tanh()), "disc": mlp(64, 1)},
        losses=losses,
        trains={"disc": "disc", "gen": "gen"},
        optimizers=partial(torch.optim.Adam, lr=1e-3, betas=(0.5, 0.999), fused=True),
        phases=cograd.alternate("disc", "gen"),
    )

    def samples(n: int) -> Tensor:
        noise = torch.randn(n, NOISE, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            fake: Tensor = joint.models.gen(noise)
        return fake

    return Recipe(
        joint=joint,
        batches=minibatches(data.x, size=64, seed=seed),
        epochs=60,
        metric="distance to real digits",
        score=lambda: distance(samples(len(data.test_x)), data.test_x),
        baseline=distance(torch.rand_like(data.test_x) * 2 - 1, data.test_x),
        trivial="uniform noise",
        higher_is_better=False,
        by_hand=by_hand,
        draw=lambda figure: grid(figure, samples(40)),
    )


def distance(a: Tensor, b: Tensor) -> float:
    """Energy distance between two sets of images: 0 if they follow the same distribution."""
    return float(2 * torch.cdist(a, b).mean() - torch.cdist(a, a).mean() - torch.cdist(b, b).mean())


def grid(figure: Figure, images: Tensor) -> None:
    """Draw 8x8 images in five rows."""
    axes = figure.subplots(5, len(images) // 5).flat
    for axis, image in zip(axes, images, strict=True):
        axis.imshow(image.reshape(8, 8), cmap="gray_r", vmin=-1, vmax=1)
        axis.axis("off")


def by_hand(m: Any, optimizers: Any) -> Callable[[tuple[Tensor, ...]], object]:
    """The same step in plain PyTorch."""

    def step(batch: tuple[Tensor, ...]) -> object:
        (real,) = batch
        with torch.no_grad():
            fake = m.gen(torch.randn(len(real), NOISE))
        d_loss = bce(m.disc(real), 1.0) + bce(m.disc(fake), 0.0)
        optimizers["disc"].zero_grad()
        d_loss.backward()
        optimizers["disc"].step()

        m.disc.requires_grad_(False)
        g_loss = bce(m.disc(m.gen(torch.randn(len(real), NOISE))), 1.0)
        optimizers["gen"].zero_grad()
        g_loss.backward()
        optimizers["gen"].step()
        m.disc.requires_grad_(True)
        return d_loss.detach(), g_loss.detach()

    return step


if __name__ == "__main__":
    main(build)
