"""GANs: both networks from one forward, in turns, n critic steps per generator step, gradient penalties."""

import pytest
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

import cograd

TRAINS = {"disc": "disc", "gen": "gen"}


@pytest.fixture
def models(mlp):
    return lambda: {"gen": mlp(3, 8, 4), "disc": mlp(4, 8, 1)}


def noise(x):
    return torch.randn(len(x), 3)


def bce(logits, target):
    return binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))


def declare(losses, optimizer, phases=None):
    return lambda m: cograd.Joint(models=m, losses=losses, trains=TRAINS, optimizers=optimizer, phases=phases)


def in_turns(m, real):
    """The losses of an alternating GAN as cograd takes them: no detach anywhere."""
    fake = m.gen(noise(real))
    return {
        "disc": lambda: bce(m.disc(real), 1.0) + bce(m.disc(fake), 0.0),
        "gen": lambda: bce(m.disc(fake), 1.0),
    }


def disc_turn(m, opt_disc, real):
    with torch.no_grad():
        fake = m["gen"](noise(real))
    opt_disc.zero_grad()
    (bce(m["disc"](real), 1.0) + bce(m["disc"](fake), 0.0)).backward()
    opt_disc.step()


def gen_turn(m, opt_gen, real):
    opt_gen.zero_grad()
    bce(m["disc"](m["gen"](noise(real))), 1.0).backward()
    opt_gen.step()


def test_simultaneous_from_one_score(check, assign, optimizer, models, batches):
    """Both losses read the same ``disc(fake)``."""

    def by_hand(m, batches):
        gen, disc = list(m["gen"].parameters()), list(m["disc"].parameters())
        opt_gen, opt_disc = optimizer(gen), optimizer(disc)
        for real in batches:
            score = m["disc"](m["gen"](noise(real)))
            disc_loss = bce(m["disc"](real), 1.0) + bce(score, 0.0)
            gen_loss = bce(score, 1.0)
            assign(disc, torch.autograd.grad(disc_loss, disc, retain_graph=True))
            assign(gen, torch.autograd.grad(gen_loss, gen))
            opt_disc.step()
            opt_gen.step()

    def losses(m, real):
        score = m.disc(m.gen(noise(real)))
        return {"disc": bce(m.disc(real), 1.0) + bce(score, 0.0), "gen": bce(score, 1.0)}

    joint = check(models, by_hand, declare(losses, optimizer), batches)
    ((_, plan),) = joint.plan().phases
    assert [str(p) for p in plan.passes] == ["disc -> disc", "gen -> gen"]


def test_simultaneous_with_a_forward_for_each_loss(check, optimizer, models, batches):
    """The textbook loop detaches; the losses given to cograd do not."""

    def by_hand(m, batches):
        opt_gen, opt_disc = optimizer(m["gen"].parameters()), optimizer(m["disc"].parameters())
        for real in batches:
            fake = m["gen"](noise(real))
            disc_loss = bce(m["disc"](real), 1.0) + bce(m["disc"](fake.detach()), 0.0)
            gen_loss = bce(m["disc"](fake), 1.0)
            opt_gen.zero_grad()
            gen_loss.backward()
            opt_disc.zero_grad()  # also drops what gen_loss left there
            disc_loss.backward()
            opt_gen.step()
            opt_disc.step()

    def losses(m, real):
        fake = m.gen(noise(real))
        return {"disc": bce(m.disc(real), 1.0) + bce(m.disc(fake), 0.0), "gen": bce(m.disc(fake), 1.0)}

    check(models, by_hand, declare(losses, optimizer), batches)


def test_moving_the_discriminators_step_to_the_end_trains_it_to_be_fooled(check, optimizer, models, batches):
    """The popular cure for the in-place error adds the generator's gradient to the discriminator's."""

    def cure(m, batches, drop_leak):
        opt_gen, opt_disc = optimizer(m["gen"].parameters()), optimizer(m["disc"].parameters())
        for real in batches:
            fake = m["gen"](noise(real))
            disc_loss = bce(m["disc"](real), 1.0) + bce(m["disc"](fake.detach()), 0.0)
            gen_loss = bce(m["disc"](fake), 1.0)
            opt_disc.zero_grad()
            disc_loss.backward()
            clean = [p.grad.clone() for p in m["disc"].parameters()]
            opt_gen.zero_grad()
            gen_loss.backward()
            for p, g in zip(m["disc"].parameters(), clean, strict=True):
                assert not torch.equal(p.grad, g)
                if drop_leak:
                    p.grad = g
            opt_gen.step()
            opt_disc.step()

    def losses(m, real):
        fake = m.gen(noise(real))
        return {"disc": bce(m.disc(real), 1.0) + bce(m.disc(fake), 0.0), "gen": bce(m.disc(fake), 1.0)}

    joint = declare(losses, optimizer)
    check(models, lambda m, batches: cure(m, batches, drop_leak=True), joint, batches)
    with pytest.raises(AssertionError, match="not equal"):
        check(models, lambda m, batches: cure(m, batches, drop_leak=False), joint, batches)


def test_alternating(check, optimizer, models, batches):
    def by_hand(m, batches):
        opt_gen, opt_disc = optimizer(m["gen"].parameters()), optimizer(m["disc"].parameters())
        for real in batches:
            disc_turn(m, opt_disc, real)
            gen_turn(m, opt_gen, real)

    check(models, by_hand, declare(in_turns, optimizer, cograd.alternate("disc", "gen")), batches)


def test_generator_on_every_fifth_batch(check, optimizer, models, batches):
    def by_hand(m, batches):
        opt_gen, opt_disc = optimizer(m["gen"].parameters()), optimizer(m["disc"].parameters())
        for i, real in enumerate(batches, 1):
            disc_turn(m, opt_disc, real)
            if i % 5 == 0:
                gen_turn(m, opt_gen, real)

    phases = cograd.alternate("disc", "gen", every={"gen": 5})
    joint = check(models, by_hand, declare(in_turns, optimizer, phases), batches * 2)
    assert joint.updates == {"gen": 2, "disc": 10}


def test_critic_three_times_on_each_batch(check, optimizer, models, batches):
    def by_hand(m, batches):
        opt_gen, opt_disc = optimizer(m["gen"].parameters()), optimizer(m["disc"].parameters())
        for real in batches:
            for _ in range(3):
                disc_turn(m, opt_disc, real)
            gen_turn(m, opt_gen, real)

    phases = cograd.alternate("disc", "gen", repeat={"disc": 3})
    joint = check(models, by_hand, declare(in_turns, optimizer, phases), batches)
    assert joint.updates == {"gen": 5, "disc": 15}


@pytest.fixture
def critic_models(mlp):
    """A critic's last bias cancels in its loss, so it has none."""
    return lambda: {"gen": mlp(3, 8, 4), "disc": nn.Sequential(mlp(4, 8), nn.Tanh(), nn.Linear(8, 1, bias=False))}


def penalty(critic, real, fake):
    share = torch.rand(len(real), 1)
    mixed = (share * real + (1 - share) * fake).requires_grad_(True)
    (slope,) = torch.autograd.grad(critic(mixed).sum(), mixed, create_graph=True)
    return (slope.norm(dim=1) - 1).square().mean()


def wasserstein(m, real):
    fake = m.gen(noise(real))
    return {
        "disc": lambda: m.disc(fake).mean() - m.disc(real).mean() + 10 * penalty(m.disc, real, fake),
        "gen": lambda: -m.disc(fake).mean(),
    }


def test_gradient_penalty_alternating(check, optimizer, critic_models, batches):
    def by_hand(m, batches):
        opt_gen, opt_disc = optimizer(m["gen"].parameters()), optimizer(m["disc"].parameters())
        for i, real in enumerate(batches, 1):
            fake = m["gen"](noise(real)).detach()
            opt_disc.zero_grad()
            (m["disc"](fake).mean() - m["disc"](real).mean() + 10 * penalty(m["disc"], real, fake)).backward()
            opt_disc.step()
            if i % 2 == 0:
                opt_gen.zero_grad()
                (-m["disc"](m["gen"](noise(real))).mean()).backward()
                opt_gen.step()

    phases = cograd.alternate("disc", "gen", every={"gen": 2})
    check(critic_models, by_hand, declare(wasserstein, optimizer, phases), batches)


def test_gradient_penalty_simultaneous(check, assign, optimizer, critic_models, batches):
    """The penalty reaches the generator too, through a second derivative, and must not train it."""

    def by_hand(m, batches):
        gen, disc = list(m["gen"].parameters()), list(m["disc"].parameters())
        opt_gen, opt_disc = optimizer(gen), optimizer(disc)
        for real in batches:
            fake = m["gen"](noise(real))
            still = fake.detach()
            disc_loss = m["disc"](still).mean() - m["disc"](real).mean() + 10 * penalty(m["disc"], real, still)
            assign(disc, torch.autograd.grad(disc_loss, disc))
            assign(gen, torch.autograd.grad(-m["disc"](fake).mean(), gen))
            opt_disc.step()
            opt_gen.step()

    check(critic_models, by_hand, declare(wasserstein, optimizer), batches)
