"""The pairs that are compared: each gives two steps that do the same updates from the same start."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import cograd

Step = Callable[[], object]
fused = partial(torch.optim.Adam, lr=2e-4, fused=True)
default = partial(torch.optim.Adam, lr=2e-4)

BATCH, NOISE, DATA, HIDDEN = 64, 64, 64, 128


def mlp(inputs: int, outputs: int, hidden: int = HIDDEN) -> nn.Sequential:
    act = partial(nn.LeakyReLU, 0.2)
    return nn.Sequential(nn.Linear(inputs, hidden), act(), nn.Linear(hidden, hidden), act(), nn.Linear(hidden, outputs))


def bce(logits: Tensor, target: float) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))


def mlp_gan() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {"gen": mlp(NOISE, DATA), "disc": mlp(DATA, 1)}


def dcgan() -> dict[str, nn.Module]:
    """Generator and discriminator of 32x32 grey images."""
    torch.manual_seed(0)

    def up(i: int, o: int, k: int = 4, s: int = 2, p: int = 1) -> list[nn.Module]:
        return [nn.ConvTranspose2d(i, o, k, s, p, bias=False), nn.BatchNorm2d(o), nn.ReLU()]

    def down(i: int, o: int) -> list[nn.Module]:
        return [nn.Conv2d(i, o, 4, 2, 1, bias=False), nn.BatchNorm2d(o), nn.LeakyReLU(0.2)]

    gen = nn.Sequential(
        nn.Unflatten(1, (NOISE, 1, 1)),
        *up(NOISE, 128, 4, 1, 0),
        *up(128, 64),
        *up(64, 32),
        nn.ConvTranspose2d(32, 1, 4, 2, 1),
        nn.Tanh(),
    )
    disc = nn.Sequential(
        nn.Conv2d(1, 32, 4, 2, 1),
        nn.LeakyReLU(0.2),
        *down(32, 64),
        *down(64, 128),
        nn.Flatten(),
        nn.Linear(128 * 16, 1),
    )
    return {"gen": gen, "disc": disc}


def gan_alternating(make: Callable[[], dict[str, nn.Module]], real: Tensor, optimizer: Any) -> tuple[Step, Step]:
    """Discriminator and generator in turn, each with the other frozen."""
    models = make()
    gen, disc = models["gen"], models["disc"]
    opt_g, opt_d = optimizer(gen.parameters()), optimizer(disc.parameters())

    def by_hand() -> None:
        with torch.no_grad():
            fake = gen(torch.randn(len(real), NOISE))
        loss = bce(disc(real), 1.0) + bce(disc(fake), 0.0)
        opt_d.zero_grad()
        loss.backward()
        opt_d.step()
        disc.requires_grad_(False)
        loss = bce(disc(gen(torch.randn(len(real), NOISE))), 1.0)
        opt_g.zero_grad()
        loss.backward()
        opt_g.step()
        disc.requires_grad_(True)

    def losses(m: Any, batch: Tensor) -> cograd.Losses:
        fake = m.gen(torch.randn(len(batch), NOISE))
        return {
            "disc": lambda: bce(m.disc(batch), 1.0) + bce(m.disc(fake), 0.0),
            "gen": lambda: bce(m.disc(fake), 1.0),
        }

    joint = cograd.Joint(
        models=make(),
        losses=losses,
        trains={"disc": "disc", "gen": "gen"},
        optimizers=optimizer,
        phases=cograd.alternate("disc", "gen"),
    )
    return by_hand, lambda: joint.step(real)


def gan_simultaneous(make: Callable[[], dict[str, nn.Module]], real: Tensor, optimizer: Any) -> tuple[Step, Step]:
    """Both from one forward; the discriminator sees the fakes once."""
    models = make()
    gen, disc = models["gen"], models["disc"]
    opt_g, opt_d = optimizer(gen.parameters()), optimizer(disc.parameters())
    gen_parameters, disc_parameters = list(gen.parameters()), list(disc.parameters())

    def by_hand() -> None:
        score = disc(gen(torch.randn(len(real), NOISE)))
        d_loss = bce(disc(real), 1.0) + bce(score, 0.0)
        g_loss = bce(score, 1.0)
        opt_d.zero_grad()
        opt_g.zero_grad()
        torch.autograd.backward(d_loss, inputs=disc_parameters, retain_graph=True)
        torch.autograd.backward(g_loss, inputs=gen_parameters)
        opt_d.step()
        opt_g.step()

    def losses(m: Any, batch: Tensor) -> cograd.Losses:
        score = m.disc(m.gen(torch.randn(len(batch), NOISE)))
        return {"disc": bce(m.disc(batch), 1.0) + bce(score, 0.0), "gen": bce(score, 1.0)}

    joint = cograd.Joint(models=make(), losses=losses, trains={"disc": "disc", "gen": "gen"}, optimizers=optimizer)
    return by_hand, lambda: joint.step(real)


def shared_trunk(heads: int = 4) -> tuple[Step, Step]:
    """One trunk, several heads, a weighted sum of losses, one pass."""
    x, y = torch.randn(BATCH, DATA), torch.randn(heads, BATCH, 1)
    weights = {f"loss{k}": 1.0 / (k + 1) for k in range(heads)}

    def make() -> dict[str, nn.Module]:
        torch.manual_seed(0)
        return {"trunk": mlp(DATA, HIDDEN, 2 * HIDDEN)} | {f"head{k}": nn.Linear(HIDDEN, 1) for k in range(heads)}

    models = make()
    optimizer = fused([p for model in models.values() for p in model.parameters()])

    def by_hand() -> None:
        h = models["trunk"](x)
        total = sum(w * F.mse_loss(models[f"head{k}"](h), y[k]) for k, w in enumerate(weights.values()))
        optimizer.zero_grad()
        total.backward()
        optimizer.step()

    def losses(m: Any, batch: Tensor) -> cograd.Losses:
        h = m.trunk(batch)
        return {f"loss{k}": F.mse_loss(m[f"head{k}"](h), y[k]) for k in range(heads)}

    mine = make()
    joint = cograd.Joint(
        models=mine,
        losses=losses,
        optimizers=fused([p for model in mine.values() for p in model.parameters()]),
        weights=weights,
    )
    return by_hand, lambda: joint.step(x)


def independent() -> tuple[Step, Step]:
    """Two nets with nothing in common, updated at once."""
    x, y = torch.randn(BATCH, DATA), torch.randn(BATCH, 1)

    def make() -> dict[str, nn.Module]:
        torch.manual_seed(0)
        return {"a": mlp(DATA, 1, 2 * HIDDEN), "b": mlp(DATA, 1, 2 * HIDDEN)}

    models = make()
    a, b = models["a"], models["b"]
    opt_a, opt_b = fused(a.parameters()), fused(b.parameters())

    def by_hand() -> None:
        total = F.mse_loss(a(x), y) + F.l1_loss(b(x), y)
        opt_a.zero_grad()
        opt_b.zero_grad()
        total.backward()
        opt_a.step()
        opt_b.step()

    joint = cograd.Joint(
        models=make(),
        losses=lambda m, batch: {"a": F.mse_loss(m.a(batch), y), "b": F.l1_loss(m.b(batch), y)},
        optimizers=fused,
    )
    return by_hand, lambda: joint.step(x)


def gan_of_the_tutorials(real: Tensor, optimizer: Any) -> Step:
    """The GAN loop that is copied everywhere, with its faulty order of statements repaired."""
    models = mlp_gan()
    gen, disc = models["gen"], models["disc"]
    opt_g, opt_d = optimizer(gen.parameters()), optimizer(disc.parameters())
    criterion = nn.BCEWithLogitsLoss()
    ones, zeros = torch.ones(len(real), 1), torch.zeros(len(real), 1)

    def step() -> None:
        fake = gen(torch.randn(len(real), NOISE))
        d_loss = criterion(disc(real), ones) + criterion(disc(fake.detach()), zeros)
        opt_d.zero_grad()
        d_loss.backward()
        opt_d.step()
        g_loss = criterion(disc(fake), ones)
        opt_g.zero_grad()
        g_loss.backward()
        opt_g.step()

    return step
