"""Wasserstein GAN with a gradient penalty: three steps of the critic to one of the generator (scheme 3).

The penalty needs a gradient inside the loss (``torch.autograd.grad`` with ``create_graph=True``),
which is an ordinary loss to cograd. ``every={"gen": 3}`` gives each critic step fresh digits.

Gulrajani et al., Improved Training of Wasserstein GANs, NeurIPS 2017, https://arxiv.org/abs/1704.00028.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import cograd
from cograd.recipes import Minibatches, Recipe, draw_images, likeness, load, main, mlp, predicting

NOISE = 16
PENALTY = 10.0


def critic_loss(critic: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    """How much more it likes the fakes, plus the penalty for slopes between real and fake other than 1."""
    share = torch.rand(len(real), 1)
    between = (share * real + (1 - share) * fake).requires_grad_()
    (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    penalty = (slope.norm(dim=1) - 1).square().mean()
    loss: Tensor = (critic(fake) - critic(real)).mean() + PENALTY * penalty
    return loss


def losses(m: Any, batch: tuple[Tensor, ...]) -> cograd.Losses:
    """Both losses. Only the one whose turn it is gets evaluated."""
    (real,) = batch
    fake = m.gen(torch.randn(len(real), NOISE))
    return {
        "critic": lambda: critic_loss(m.critic, real, fake),
        "gen": lambda: -m.critic(fake).mean(),
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
            "critic": mlp(64, 128, 128, 1, activation=leaky),
        },
        losses=losses,
        trains={"critic": "critic", "gen": "gen"},
        optimizers=partial(torch.optim.Adam, lr=2e-3, betas=(0.5, 0.9), fused=True),
        phases=cograd.alternate("critic", "gen", every={"gen": 3}),
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
    batches = 0

    def step(batch: tuple[Tensor, ...]) -> object:
        nonlocal batches
        batches += 1
        (real,) = batch
        with torch.no_grad():
            fake = m.gen(torch.randn(len(real), NOISE))
        c_loss = critic_loss(m.critic, real, fake)
        optimizers["critic"].zero_grad()
        c_loss.backward()
        optimizers["critic"].step()
        if batches % 3:
            return c_loss.detach()

        m.critic.requires_grad_(False)
        g_loss = -m.critic(m.gen(torch.randn(len(real), NOISE))).mean()
        optimizers["gen"].zero_grad()
        g_loss.backward()
        optimizers["gen"].step()
        m.critic.requires_grad_(True)
        return c_loss.detach(), g_loss.detach()

    return step


if __name__ == "__main__":
    main(build)
