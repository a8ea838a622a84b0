"""Coupled models trained in turns, and what looks like it but is not."""

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

import cograd

MOVES = {"lr": 5e-2, "momentum": 0.9, "weight_decay": 0.1}


@pytest.fixture
def towers():
    """User and item embeddings; a rating is their product."""
    return lambda: {"user": nn.Embedding(5, 3), "item": nn.Embedding(7, 3)}


@pytest.fixture
def ratings():
    generator = torch.Generator().manual_seed(3)
    return [
        (
            torch.randint(5, (8,), generator=generator),
            torch.randint(7, (8,), generator=generator),
            torch.rand(8, generator=generator),
        )
        for _ in range(5)
    ]


def rating_loss(m, batch):
    user, item, rating = batch
    return mse_loss((m["user"](user) * m["item"](item)).sum(dim=1), rating)


def in_turns(optimizer):
    """True alternation: the second model sees the first one's update."""

    def by_hand(m, batches):
        optimizers = {name: optimizer(model.parameters()) for name, model in m.items()}
        for batch in batches:
            for name in m:
                for model in m.values():
                    model.zero_grad()
                rating_loss(m, batch).backward()
                optimizers[name].step()

    return by_hand


def test_user_and_item_towers(check, optimizer, towers, ratings):
    def joint(m):
        return cograd.Joint(
            models=m,
            losses=lambda m, batch: {"rating": rating_loss(m, batch)},
            optimizers=optimizer,
            phases=cograd.alternate("user", "item"),
        )

    check(towers, in_turns(optimizer), joint, ratings)


def test_one_optimizer_over_both_towers(check, optimizer, towers, ratings):
    """The tower whose turn it is not stays put, although the optimizer that steps holds it."""

    def joint(m):
        return cograd.Joint(
            models=m,
            losses=lambda m, batch: {"rating": rating_loss(m, batch)},
            optimizers=optimizer([p for model in m.values() for p in model.parameters()]),
            phases=cograd.alternate("user", "item"),
        )

    check(towers, in_turns(optimizer), joint, ratings)


def two_backwards(optimizer):
    """Seed: the same loss differentiated twice, with a step between."""

    def by_hand(m, batches):
        opt_a, opt_b = optimizer(m["a"].parameters()), optimizer(m["b"].parameters())
        for x in batches:
            loss = mse_loss(m["b"](m["a"](x)), x[:, :1])
            opt_a.zero_grad()
            loss.backward(retain_graph=True)
            opt_a.step()
            opt_b.zero_grad()
            loss.backward()
            opt_b.step()

    return by_hand


def alternating(optimizer):
    def by_hand(m, batches):
        opt_a, opt_b = optimizer(m["a"].parameters()), optimizer(m["b"].parameters())
        for x in batches:
            opt_a.zero_grad()
            mse_loss(m["b"](m["a"](x)), x[:, :1]).backward()
            opt_a.step()
            opt_b.zero_grad()
            mse_loss(m["b"](m["a"](x)), x[:, :1]).backward()
            opt_b.step()

    return by_hand


def chain(optimizer, phases):
    def losses(m, x):
        return {"y": mse_loss(m.b(m.a(x)), x[:, :1])}

    return lambda m: cograd.Joint(models=m, losses=losses, optimizers=optimizer, phases=phases)


def test_two_backwards_of_one_loss_are_a_simultaneous_update(check, optimizer, mlp, batches):
    def models():
        return {"a": mlp(4, 5), "b": mlp(5, 1)}

    check(models, two_backwards(optimizer), chain(optimizer, cograd.together("a", "b")), batches)
    check(models, alternating(optimizer), chain(optimizer, cograd.alternate("a", "b")), batches)
    with pytest.raises(AssertionError, match="not equal"):
        check(models, two_backwards(optimizer), chain(optimizer, cograd.alternate("a", "b")), batches)


def test_with_deeper_models_two_backwards_raise_and_cograd_alternates(check, optimizer, mlp, batches):
    def models():
        return {"a": mlp(4, 6, 5), "b": mlp(5, 1)}

    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        two_backwards(optimizer)(models(), batches)
    check(models, alternating(optimizer), chain(optimizer, cograd.alternate("a", "b")), batches)
    check(models, together_by_hand(optimizer), chain(optimizer, cograd.together("a", "b")), batches)


def together_by_hand(optimizer):
    def by_hand(m, batches):
        opt_a, opt_b = optimizer(m["a"].parameters()), optimizer(m["b"].parameters())
        for x in batches:
            opt_a.zero_grad()
            opt_b.zero_grad()
            mse_loss(m["b"](m["a"](x)), x[:, :1]).backward()
            opt_a.step()
            opt_b.step()

    return by_hand


@pytest.mark.parametrize(
    "make",
    [
        lambda ps: torch.optim.SGD(ps, **MOVES),
        lambda ps: torch.optim.SGD(ps, **MOVES, nesterov=True, foreach=True),
        lambda ps: torch.optim.Adam(ps, lr=1e-2, weight_decay=0.1),
        lambda ps: torch.optim.AdamW(ps, lr=1e-2, fused=True),
        lambda ps: torch.optim.RMSprop(ps, lr=1e-2, momentum=0.9, weight_decay=0.1),
    ],
    ids=["SGD", "SGD foreach", "Adam", "AdamW fused", "RMSprop"],
)
def test_a_frozen_model_does_not_move_by_a_hair(mlp, batches, make):
    """It has momentum, weight decay and the optimizer steps; only ``grad=None`` keeps it in place."""
    a, b = mlp(4, 6, 5), mlp(5, 1)
    seen = {"a": [], "b": []}

    def losses(m, x):
        for name in m:
            seen[name].append(torch.cat([p.detach().flatten() for p in m[name].parameters()]))
        return {"y": mse_loss(m.b(m.a(x)), x[:, :1])}

    joint = cograd.Joint(
        models={"a": a, "b": b},
        losses=losses,
        optimizers=make([*a.parameters(), *b.parameters()]),
        phases=cograd.alternate("a", "b"),
    )
    for x in batches:
        joint.step(x)
    losses(joint.models, batches[0])  # where the last phase left them
    for turn in range(10):
        moved, still = ("a", "b") if turn % 2 == 0 else ("b", "a")
        assert torch.equal(seen[still][turn], seen[still][turn + 1])
        assert not torch.equal(seen[moved][turn], seen[moved][turn + 1])


def test_gradients_left_over_from_elsewhere_do_not_count(check, optimizer, towers, ratings):
    """Whatever another loop left in ``.grad``: the tower whose turn it is steps on its own gradient alone."""

    def joint(m):
        built = cograd.Joint(
            models=m,
            losses=lambda m, batch: {"rating": rating_loss(m, batch)},
            optimizers=optimizer([p for model in m.values() for p in model.parameters()]),
            phases=cograd.alternate("user", "item"),
        )
        step = built.step

        def with_leftovers(batch):
            for model in m.values():
                model.weight.grad = torch.full_like(model.weight, 3.0)
            return step(batch)

        built.step = with_leftovers
        return built

    check(towers, in_turns(optimizer), joint, ratings)
