"""record: plain code with backward calls of its own, watched and unchanged."""

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss
from torch.optim import Adam

import cograd
from cograd.errors import LossError, ModelError

X = torch.linspace(-1, 1, 32).reshape(8, 4)


def networks():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.1), nn.Linear(6, 4)), nn.Linear(4, 1)


def train(gen, disc, steps):
    """A GAN by hand; returns the losses, and what each gave to each model in the last step."""
    optim_g, optim_d = Adam(gen.parameters()), Adam(disc.parameters())
    history = []
    for _ in range(steps):
        fake = gen(torch.randn(8, 4))
        d_loss = mse_loss(disc(X), torch.ones(8, 1)) + mse_loss(disc(fake.detach()), torch.zeros(8, 1))
        optim_d.zero_grad()
        d_loss.backward()
        to_disc = [p.grad.clone() for p in disc.parameters()]
        optim_d.step()
        g_loss = mse_loss(disc(fake), torch.ones(8, 1)) + 0.1 * fake.square().mean()
        optim_g.zero_grad()
        g_loss.backward()  # adds to disc's gradient too
        leaked = [p.grad - g for p, g in zip(disc.parameters(), to_disc, strict=True)]
        to_gen = [p.grad.clone() for p in gen.parameters()]
        optim_g.step()
        history.append((d_loss.item(), g_loss.item()))
    return history, {("d_loss", "disc"): to_disc, ("g_loss", "gen"): to_gen, ("g_loss", "disc"): leaked}


def norm(gradients):
    return torch.cat([g.flatten() for g in gradients]).norm().item()


def test_results_are_the_same_and_the_numbers_those_of_the_last_step():
    gen, disc = networks()
    plain, _ = train(gen, disc, 6)
    state = torch.get_rng_state()
    watched_gen, watched_disc = networks()
    with cograd.record(models={"gen": watched_gen, "disc": watched_disc}) as log:
        watched, gave = train(watched_gen, watched_disc, 6)
    assert watched == plain
    assert torch.equal(state, torch.get_rng_state())
    for net, other in ((gen, watched_gen), (disc, watched_disc)):
        for a, b in zip(net.parameters(), other.parameters(), strict=True):
            assert torch.equal(a, b)
            assert torch.equal(a.grad, b.grad)
    found = log.explain()
    assert found.losses == ("d_loss", "g_loss")
    assert found.reached == {"d_loss": {"gen": 0, "disc": 2}, "g_loss": {"gen": 4, "disc": 2}}
    for (loss, model), gradients in gave.items():
        assert found.norms[loss][model] == pytest.approx(norm(gradients), rel=1e-4)
    a = torch.cat([g.flatten() for g in gave["d_loss", "disc"]])
    b = torch.cat([g.flatten() for g in gave["g_loss", "disc"]])
    assert found.cosines["disc"][("d_loss", "g_loss")] == pytest.approx((a @ b / a.norm() / b.norm()).item(), abs=1e-4)
    (cut,) = found.cuts
    assert (cut.loss, cut.model, cut.how) == ("d_loss", "gen", "detach()")
    assert cut.source.startswith("d_loss = mse_loss(disc(X)")
    assert "12 optimizer steps" in str(found)


def test_nothing_stays_behind_in_torch():
    before = (torch.autograd.backward, vars(nn.Parameter)["__new__"], torch.from_numpy, nn.Module.zero_grad)
    gen, disc = networks()
    with cograd.record(models={"gen": gen, "disc": disc}) as log:
        train(gen, disc, 1)
    assert before == (torch.autograd.backward, vars(nn.Parameter)["__new__"], torch.from_numpy, nn.Module.zero_grad)
    first = str(log.explain())
    train(gen, disc, 1)
    assert str(log.explain()) == first
    assert not gen[0].weight._backward_hooks


def test_several_backward_calls_of_one_name():
    net = nn.Linear(4, 1)
    with cograd.record(models={"net": net}) as log:
        loss = net(X).mean()
        loss.backward()
        loss = net(X).square().mean()
        loss.backward()
    first, second = log.explain().losses
    assert int(second.removeprefix("loss:")) == int(first.removeprefix("loss:")) + 2


def test_accumulated_gradients_are_told_apart():
    net = nn.Linear(4, 1, bias=False)
    with cograd.record(models={"net": net}) as log:
        a = net(torch.ones(1, 4)).sum()
        b = 2 * net(torch.ones(1, 4)).sum()
        (a + b).backward()
        c = 5 * net.weight[0, 0]
        c.backward(inputs=[net.weight])
    norms = log.explain().norms
    assert norms["a + b"]["net"] == pytest.approx(6.0)
    assert norms["c"]["net"] == pytest.approx(5.0)
    assert net.weight.grad.tolist() == [[8.0, 3.0, 3.0, 3.0]]


def test_frozen_and_unfrozen_on_the_way():
    gen, disc = networks()
    disc.requires_grad_(False)
    with cograd.record(models={"gen": gen, "disc": disc}) as log:
        one = disc(gen(X)).mean()
        one.backward()
        assert log.explain().parts[0].frozen == ("disc",)
        disc.requires_grad_(True)
        two = disc(gen(X)).mean()
        two.backward()
    assert log.explain().reached == {"one": {"gen": 4, "disc": 0}, "two": {"gen": 4, "disc": 2}}
    assert log.explain().cuts == ()


def test_a_joint_inside():
    gen, disc = networks()
    joint = cograd.Joint(
        models={"gen": gen, "disc": disc},
        losses=lambda m, x: {"a": m.disc(m.gen(x)).mean()},
        optimizers=Adam,
    )
    with cograd.record(models={"gen": gen, "disc": disc}) as log:
        joint.step(X)
    assert list(log.explain().reached.values()) == [{"gen": 4, "disc": 2}]


def test_an_exception_inside_passes_through():
    net = nn.Linear(4, 1)
    log = cograd.record(models={"net": net})

    def twice():
        with log:
            loss = net(X).square().mean()
            loss.backward()
            loss.backward()

    with pytest.raises(RuntimeError, match="second time"):
        twice()
    assert log.explain().reached == {"loss": {"net": 2}}


def test_the_door_refuses():
    with pytest.raises(ModelError, match="models maps names to modules"):
        cograd.record(models=nn.Linear(1, 1))
    with cograd.record(models={"net": nn.Linear(1, 1)}) as log:
        pass
    with pytest.raises(LossError, match="Nothing was differentiated"):
        log.explain()
