"""Two small systems, each with a plain loop, that the frameworks' loops must equal bit for bit."""

import os
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import distributed, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import DataLoader, TensorDataset

import cograd

RULE = cograd.weighting.UPGrad()


@dataclass(frozen=True)
class System:
    """``models()`` are fresh and always the same; ``by_hand(models, optimizers, batches)`` uses no framework."""

    models: Callable[[], dict[str, nn.Module]]
    losses: Callable[[Any, Any], Any]
    by_hand: Callable[..., None]
    options: dict[str, Any]

    def joint(self, models, optimizers):
        return cograd.Joint(models=models, losses=self.losses, optimizers=optimizers, **self.options)

    def trained(self, batches, **how):
        """The models after the plain loop."""
        models = self.models()
        self.by_hand(models, adam(models), batches, **how)
        return models


def adam(models):
    return {name: torch.optim.Adam(model.parameters(), lr=1e-2) for name, model in models.items()}


def seeded(build):
    def models():
        with torch.random.fork_rng():
            torch.manual_seed(3)
            return build()

    return models


@seeded
def two_heads():
    trunk = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU())
    return {"trunk": trunk, "size": nn.Linear(16, 1), "sign": nn.Linear(16, 1)}


def head_losses(m, batch):
    x, y = batch
    code = m["trunk"](x)
    sign = binary_cross_entropy_with_logits(m["sign"](code), (y > 0).float())
    return {"size": (m["size"](code) - y).abs().mean(), "sign": sign}


def heads_by_hand(models, optimizers, batches, autocast=nullcontext):
    for batch in batches:
        with autocast():
            losses = head_losses(models, batch)
        for optimizer in optimizers.values():
            optimizer.zero_grad()
        cograd.backward(losses, weighting=RULE)
        for optimizer in optimizers.values():
            optimizer.step()


@seeded
def gan():
    return {
        "gen": nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 6)),
        "disc": nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 1)),
    }


def bce(logits, target):
    return binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))


def gan_losses(m, batch):
    real, noise = batch
    fake = m["gen"](noise)
    return {
        "disc": lambda: bce(m["disc"](real), 1.0) + bce(m["disc"](fake), 0.0),
        "gen": lambda: bce(m["disc"](fake), 1.0),
    }


def gan_by_hand(models, optimizers, batches):
    gen, disc = models["gen"], models["disc"]
    for real, noise in batches:
        optimizers["disc"].zero_grad()
        (bce(disc(real), 1.0) + bce(disc(gen(noise).detach()), 0.0)).backward()
        optimizers["disc"].step()
        optimizers["gen"].zero_grad()
        bce(disc(gen(noise)), 1.0).backward()
        optimizers["gen"].step()


@pytest.fixture
def heads():
    """A trunk with two heads under a rule that looks at gradients."""
    return System(two_heads, head_losses, heads_by_hand, {"weighting": RULE})


@pytest.fixture(params=["heads", "bf16", "gan"])
def system(request, heads):
    """``heads``, ``heads`` in a precision of its own, or a GAN in turns."""
    if request.param == "bf16":
        by_hand = partial(heads_by_hand, autocast=lambda: torch.autocast("cpu", torch.bfloat16))
        return replace(heads, by_hand=by_hand, options={**heads.options, "precision": "bf16"})
    turns = {"trains": {"disc": "disc", "gen": "gen"}, "phases": cograd.alternate("disc", "gen")}
    return heads if request.param == "heads" else System(gan, gan_losses, gan_by_hand, turns)


@pytest.fixture
def group():
    """A process group of this process alone. What frameworks put into the environment for it is taken out again."""
    before = dict(os.environ)
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()
    for name in os.environ.keys() - before:
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture
def loader():
    """Six batches ``([8, 6], [8, 1])``, always in the same order."""
    generator = torch.Generator().manual_seed(5)
    data = TensorDataset(torch.randn(48, 6, generator=generator), torch.randn(48, 1, generator=generator))
    return DataLoader(data, batch_size=8)


@pytest.fixture
def optimizers():
    """``optimizers(models)``: Adam for each."""
    return adam


@pytest.fixture
def equal():
    """``equal(a, b, fresh)``: the same models bit for bit, and every parameter has moved since ``fresh()``."""

    def compare(a, b, fresh):
        for name, start in fresh().items():
            rows = zip(start.parameters(), a[name].parameters(), b[name].parameters(), strict=True)
            for old, p, q in rows:
                assert not torch.equal(old, p), f"a parameter of {name} has not moved"
                torch.testing.assert_close(p, q, rtol=0, atol=0)

    return compare
