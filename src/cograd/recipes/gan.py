"""GAN on handwritten digits: discriminator and generator take turns (scheme 3).

Each phase evaluates the losses anew, so the generator meets the discriminator that has just
learned. In the generator's phase the discriminator is frozen, and the other way round.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

import cograd
from cograd.recipes import Minibatches, Recipe, draw_images, likeness, load, main, mlp, predicting

NOISE = 16


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
    mixed = torch.stack([pixel[torch.randperm(len(pixel))] for pixel in data.x.T], 1)[: len(data.test_x)]
    leaky = partial(nn.LeakyReLU, 0.2)
    joint = cograd.Joint(
        models={
            "gen": mlp(NOISE, 128, 128, 64, activation=leaky).append(nn.Tanh()),
            "disc": mlp(64, 128, 128, 1, activation=leaky),
        },
        losses=losses,
        trains={"disc": "disc", "gen": "gen"},
        optimizers=partial(torch.optim.Adam, lr=2e-3, betas=(0.5, 0.999), fused=True),
        phases=cograd.alternate("disc", "gen"),
    )

    def samples(n: int) -> Tensor:
        noise = torch.randn(n, NOISE, generator=torch.Generator().manual_seed(seed))
        with predicting(joint) as m:
            fake: Tensor = m.gen(noise)
        return fake

    return Recipe(
        joint=joint,
        batches=Minibatches(data.x, size=64, seed=seed),
        epochs=80,
        metric="realism and variety, the lower share",
        score=lambda: likeness(samples(len(data.test_x)), data.x, data.test_x),
        baseline=likeness(mixed, data.x, data.test_x),
        trivial="pixels of different digits mixed",
        by_hand=by_hand,
        draw=lambda figure: draw_images(figure, samples(40).chunk(5)),
    )


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
