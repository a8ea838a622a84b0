"""Two models with losses of their own: in turns, at once, summed, with one optimizer or two."""

from functools import partial

import pytest
import torch
from torch.nn.functional import mse_loss

import cograd


@pytest.fixture
def models(mlp):
    return lambda: {"a": mlp(4, 6, 1), "b": mlp(4, 5, 1)}


def losses(m, x):
    return {"a": lambda: mse_loss(m.a(x), x[:, :1]), "b": lambda: mse_loss(m.b(-x), x[:, 1:2])}


def by_hand(optimizer):
    """Seed: forward, backward and step for one model, then for the other."""

    def train(m, batches):
        opt_a, opt_b = optimizer(m["a"].parameters()), optimizer(m["b"].parameters())
        for x in batches:
            opt_a.zero_grad()
            mse_loss(m["a"](x), x[:, :1]).backward()
            opt_a.step()
            opt_b.zero_grad()
            mse_loss(m["b"](-x), x[:, 1:2]).backward()
            opt_b.step()

    return train


@pytest.mark.parametrize("trains", [None, {"a": "a", "b": "b"}], ids=["default", "declared"])
@pytest.mark.parametrize("phases", [None, cograd.alternate("a", "b")], ids=["one phase", "alternating"])
def test_one_after_the_other(check, optimizer, models, batches, phases, trains):
    joint = partial(cograd.Joint, losses=losses, trains=trains, optimizers=optimizer, phases=phases)
    trained = check(models, by_hand(optimizer), lambda m: joint(models=m), batches)
    assert trained.updates == {"a": 5, "b": 5}


def test_different_inputs_in_one_batch(check, optimizer, mlp, batches):
    def models():
        return {"a": mlp(4, 6, 1), "b": mlp(8, 1)}

    def by_hand(m, pairs):
        opt_a, opt_b = optimizer(m["a"].parameters()), optimizer(m["b"].parameters())
        for x, y in pairs:
            loss_a, loss_b = m["a"](x).square().mean(), (m["b"](y) - 1).square().mean()
            opt_a.zero_grad()
            loss_a.backward()
            opt_b.zero_grad()
            loss_b.backward()
            opt_a.step()
            opt_b.step()

    def losses(m, pair):
        x, y = pair
        return {"a": m.a(x).square().mean(), "b": (m.b(y) - 1).square().mean()}

    pairs = [(x, torch.cat([x, x.exp()], dim=1)) for x in batches]
    check(models, by_hand, lambda m: cograd.Joint(models=m, losses=losses, optimizers=optimizer), pairs)


def test_summed(check, optimizer, models, batches):
    def summed(m, batches):
        opt_a, opt_b = optimizer(m["a"].parameters()), optimizer(m["b"].parameters())
        for x in batches:
            opt_a.zero_grad()
            opt_b.zero_grad()
            (mse_loss(m["a"](x), x[:, :1]) + mse_loss(m["b"](-x), x[:, 1:2])).backward()
            opt_a.step()
            opt_b.step()

    joint = check(models, summed, lambda m: cograd.Joint(models=m, losses=losses, optimizers=optimizer), batches)
    (phase,) = joint.plan().phases
    assert len(phase[1].passes) == 1


@pytest.mark.parametrize(
    "family",
    [
        partial(torch.optim.Adam, lr=1e-2),
        partial(torch.optim.SGD, lr=5e-2, momentum=0.9, weight_decay=0.1),
        partial(torch.optim.Adafactor, lr=1e-2),
    ],
    ids=["Adam", "SGD", "Adafactor"],
)
@pytest.mark.parametrize("phases", [None, cograd.alternate("a", "b")], ids=["one phase", "alternating"])
def test_one_optimizer_over_all_is_one_per_model(check, models, batches, family, phases):
    def over_all(m):
        everything = [p for model in m.values() for p in model.parameters()]
        return cograd.Joint(models=m, losses=losses, optimizers=family(everything), phases=phases)

    check(models, by_hand(family), over_all, batches)
    check(models, by_hand(family), lambda m: cograd.Joint(models=m, losses=losses, optimizers=family), batches)


def test_learning_rates_of_their_own(check, models, batches):
    sgd = torch.optim.SGD

    def by_hand(m, batches):
        optimizer = sgd([{"params": m["a"].parameters(), "lr": 0.1}, {"params": m["b"].parameters(), "lr": 0.01}])
        for x in batches:
            optimizer.zero_grad()
            (mse_loss(m["a"](x), x[:, :1]) + mse_loss(m["b"](-x), x[:, 1:2])).backward()
            optimizer.step()

    def joint(m):
        own = {"a": sgd(m["a"].parameters(), lr=0.1), "b": sgd(m["b"].parameters(), lr=0.01)}
        return cograd.Joint(models=m, losses=losses, optimizers=own)

    check(models, by_hand, joint, batches)
