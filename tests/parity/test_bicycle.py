"""BiCycleGAN: the generator sums the gradients of two losses, and the encoder steps between them.

The loop is that of Zhu et al., Toward Multimodal Image-to-Image Translation, NeurIPS 2017, on vectors
in place of images.
"""

import pytest
import torch
from torch import nn

import cograd
from cograd import Phase

B, X, Z = 8, 4, 3
mae, mse = nn.L1Loss(), nn.MSELoss()
one, zero = torch.ones(B, 1), torch.zeros(B, 1)


class Generator(nn.Module):
    def __init__(self, mlp):
        super().__init__()
        self.net = mlp(X + Z, 16, X)

    def forward(self, a, z):
        return self.net(torch.cat([a, z], 1))


@pytest.fixture
def models(mlp):
    return lambda: {"enc": mlp(X, 16, 2 * Z), "gen": Generator(mlp), "dv": mlp(X, 16, 1), "dl": mlp(X, 16, 1)}


@pytest.fixture
def pairs():
    generator = torch.Generator().manual_seed(2)
    return [(torch.randn(B, X, generator=generator), torch.randn(B, X, generator=generator)) for _ in range(10)]


def divergence(mu, logvar):
    return 0.5 * torch.sum(logvar.exp() + mu**2 - logvar - 1)


def original(m, pairs, optimizer, forget=False):
    opt = {name: optimizer(model.parameters()) for name, model in m.items()}
    for a, b in pairs:
        opt["enc"].zero_grad()
        opt["gen"].zero_grad()
        mu, logvar = m["enc"](b).chunk(2, 1)
        fake = m["gen"](a, mu + torch.randn_like(mu) * (logvar / 2).exp())
        z = torch.randn(B, Z)
        drawn = m["gen"](a, z)
        both = mse(m["dv"](fake), one) + mse(m["dl"](drawn), one) + 10 * mae(fake, b) + 0.01 * divergence(mu, logvar)
        both.backward(retain_graph=True)
        opt["enc"].step()
        if forget:
            opt["gen"].zero_grad()
        (0.5 * mae(m["enc"](drawn).chunk(2, 1)[0], z)).backward()
        opt["gen"].step()
        for name, made in (("dv", fake), ("dl", drawn)):
            opt[name].zero_grad()
            (mse(m[name](b), one) + mse(m[name](made.detach()), zero)).backward()
            opt[name].step()


def prepare(m, pair):
    """The noise of the step, and the fakes from before the generator moves, which the discriminators judge."""
    a, b = pair
    mu, logvar = m.enc(b).chunk(2, 1)
    noise = torch.randn_like(mu)
    z = torch.randn(B, Z)
    fakes = {"dv": m.gen(a, mu + noise * (logvar / 2).exp()), "dl": m.gen(a, z)}
    return {"a": a, "b": b, "noise": noise, "z": z, "fakes": fakes}


def losses(m, batch):
    a, b, z, fakes = batch["a"], batch["b"], batch["z"], batch["fakes"]

    def both():
        mu, logvar = m.enc(b).chunk(2, 1)
        fake = m.gen(a, mu + batch["noise"] * (logvar / 2).exp())
        adversarial = mse(m.dv(fake), one) + mse(m.dl(m.gen(a, z)), one)
        return adversarial + 10 * mae(fake, b) + 0.01 * divergence(mu, logvar)

    return {
        "both": both,
        "latent": lambda: 0.5 * mae(m.enc(m.gen(a, z)).chunk(2, 1)[0], z),
        "dv": lambda: mse(m.dv(b), one) + mse(m.dv(fakes["dv"]), zero),
        "dl": lambda: mse(m.dl(b), one) + mse(m.dl(fakes["dl"]), zero),
    }


def declare(optimizer):
    return lambda m: cograd.Joint(
        models=m,
        losses=losses,
        trains={"both": ["enc", "gen"], "latent": "gen", "dv": "dv", "dl": "dl"},
        optimizers=optimizer,
        phases=[Phase(("enc", "gen"), losses="both", defer="gen"), Phase("gen", losses="latent"), Phase(("dv", "dl"))],
        prepare=prepare,
    )


def test_bicycle(check, optimizer, models, pairs):
    joint = check(models, lambda m, pairs: original(m, pairs, optimizer), declare(optimizer), pairs)
    assert joint.updates == dict.fromkeys(["enc", "gen", "dv", "dl"], 10)


def test_without_the_gradient_that_was_left_it_is_another_training(check, optimizer, models, pairs):
    with pytest.raises(AssertionError, match="not equal"):
        check(models, lambda m, pairs: original(m, pairs, optimizer, forget=True), declare(optimizer), pairs)
