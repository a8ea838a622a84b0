"""GAN on handwritten digits, generator and discriminator updated at once, from one forward (scheme 2).

The discriminator judges the fakes once and both losses use its verdict, so each model runs one
forward less than when they take turns. Both gradients are taken before either model moves, and
``trains`` keeps each loss out of the other's model: two backward passes.
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
    """Both losses, of the same verdict on the same fakes."""
    (real,) = batch
    verdict = m.disc(m.gen(torch.randn(len(real), NOISE)))
    return {
        "disc": bce(m.disc(real), 1.0) + bce(verdict, 0.0),
        "gen": bce(verdict, 1.0),
    }


def build(seed: int = 0) -> Recipe:
    """Models, optimizers, data, and how to judge the result."""
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
    gen, disc = list(m.gen.parameters()), list(m.disc.parameters())

    def step(batch: tuple[Tensor, ...]) -> object:
        (real,) = batch
        verdict = m.disc(m.gen(torch.randn(len(real), NOISE)))
        d_loss = bce(m.disc(real), 1.0) + bce(verdict, 0.0)
        g_loss = bce(verdict, 1.0)
        optimizers["disc"].zero_grad()
        optimizers["gen"].zero_grad()
        d_loss.backward(inputs=disc, retain_graph=True)
        g_loss.backward(inputs=gen)
        optimizers["disc"].step()
        optimizers["gen"].step()
        return d_loss.detach(), g_loss.detach()

    return step


if __name__ == "__main__":
    main(build)
