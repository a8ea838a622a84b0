"""Accumulation: several micro-batches make one update, counted and divided per model."""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.optim import LBFGS, SGD, Adam

from cograd import Joint, Phase, alternate
from cograd.errors import NonFiniteLossError, OptimizerError
from cograd.weighting import FAMO, PCGrad

torch.manual_seed(0)
X, Y = torch.randn(24, 4), torch.randn(24, 2)


def nets(seed=1):
    torch.manual_seed(seed)
    return {
        "trunk": nn.Sequential(nn.Linear(4, 8), nn.Tanh()),
        "a": nn.Linear(8, 1),
        "b": nn.Linear(8, 1),
    }


def losses(m, batch):
    x, y = batch
    h = m.trunk(x)
    return {"a": (m.a(h)[:, 0] - y[:, 0]).square().mean(), "b": (m.b(h)[:, 0] - y[:, 1]).square().mean()}


MOMENTUM = partial(SGD, lr=0.1, momentum=0.9)


def joint_of(models, optimizers=MOMENTUM, **options):
    return Joint(models=models, losses=losses, optimizers=optimizers, **options)


def parameters(models):
    return [p for model in models.values() for p in model.parameters()]


def assert_close(a, b, **tolerance):
    for p, q in zip(parameters(a), parameters(b), strict=True):
        torch.testing.assert_close(p, q, **tolerance)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_equal_micro_batches_are_the_full_batch(n):
    whole, parts = nets(), nets()
    one, several = joint_of(whole), joint_of(parts, accumulate=n)
    for _ in range(3):
        one.step((X, Y))
        for x, y in zip(X.chunk(n), Y.chunk(n), strict=True):
            report = several.step((x, y))
    assert_close(whole, parts, rtol=1e-6, atol=1e-6)
    assert several.updates == {"trunk": 3, "a": 3, "b": 3}
    assert several.steps == 3 * n
    assert not report.held


@pytest.mark.parametrize("optimizer", [partial(SGD, lr=0.1, momentum=0.9, weight_decay=0.1), partial(Adam, lr=0.01)])
def test_bitwise_as_the_loop_by_hand(optimizer):
    """By four: a division by a power of two is exact wherever it is made."""
    mine, theirs = nets(), nets()
    joint = joint_of(mine, optimizer, accumulate=4)
    by_hand = optimizer(parameters(theirs))
    for step in range(8):
        x, y = X[3 * step : 3 * step + 3], Y[3 * step : 3 * step + 3]
        joint.step((x, y))
        h = theirs["trunk"](x)
        a = (theirs["a"](h)[:, 0] - y[:, 0]).square().mean()
        b = (theirs["b"](h)[:, 0] - y[:, 1]).square().mean()
        ((a + b) / 4).backward()
        if step % 4 == 3:
            by_hand.step()
            by_hand.zero_grad()
    assert_close(mine, theirs, rtol=0, atol=0)


def test_a_short_tail_is_divided_by_its_true_count():
    models, expected = nets(), nets()
    joint = joint_of(models, accumulate=4)
    for x, y in zip(X.chunk(6), Y.chunk(6), strict=True):
        joint.step((x, y))
    assert joint.updates == {"trunk": 1, "a": 1, "b": 1}
    assert joint.flush() == ("trunk", "a", "b")
    assert joint.flush() == ()
    assert joint.updates == {"trunk": 2, "a": 2, "b": 2}

    other = joint_of(expected)
    other.step((X[:16], Y[:16]))
    other.step((X[16:], Y[16:]))
    assert_close(models, expected, rtol=1e-6, atol=1e-6)


def test_the_end_of_an_epoch_flushes():
    joint = joint_of(nets(), accumulate=4)
    joint.step((X, Y))
    before = copy.deepcopy(joint.models.trunk.state_dict())
    joint.end_epoch()
    assert joint.updates["trunk"] == 1
    assert any(not torch.equal(v, before[k]) for k, v in joint.models.trunk.state_dict().items())


def test_each_model_has_its_own_count_and_none_stops():
    """One global counter makes the first of two models never step, silently."""
    torch.manual_seed(3)
    models = {"gen": nn.Linear(4, 3), "disc": nn.Linear(3, 1)}

    def adversarial(m, x):
        fake = m.gen(x)
        return {
            "disc": lambda: m.disc(fake).square().mean(),
            "gen": lambda: (m.disc(fake) - 1).square().mean(),
        }

    joint = Joint(
        models=models,
        losses=adversarial,
        trains={"disc": "disc", "gen": "gen"},
        optimizers=partial(SGD, lr=0.1),
        phases=alternate("disc", "gen"),
        accumulate={"gen": 4},
    )
    moved = {"gen": [], "disc": []}
    held = []
    for _ in range(8):
        before = {name: model.weight.detach().clone() for name, model in models.items()}
        held.append(joint.step(X).held)
        for name, model in models.items():
            moved[name].append(not torch.equal(before[name], model.weight))
    assert moved == {"disc": [True] * 8, "gen": [False, False, False, True] * 2}
    assert held == [{"gen": 1}, {"gen": 2}, {"gen": 3}, {}] * 2
    assert joint.updates == {"gen": 2, "disc": 8}


def test_held_gradients_move_nothing_in_the_meantime():
    """One optimizer with momentum and weight decay over two models that are updated at different times."""
    models = nets()
    joint = joint_of(models, SGD(parameters(models), lr=0.1, momentum=0.9, weight_decay=0.1), accumulate={"a": 3})
    for expected in (False, False, True, False):
        before = models["a"].weight.detach().clone()
        joint.step((X, Y))
        assert (not torch.equal(before, models["a"].weight)) is expected
    assert all(p.grad is None for p in parameters(models))


def test_a_micro_batch_without_gradient_does_not_count():
    """Head b is trained in 2 of 4 micro-batches, and gets the mean over those two."""
    models, expected = nets(), nets()

    def partly(m, batch):
        both = losses(m, batch[:2])
        return both if batch[2] else {"a": both["a"], "b": None}

    joint = Joint(models=models, losses=partly, optimizers=partial(SGD, lr=0.1), accumulate=4)
    labelled = [True, False, False, True]
    chunks = list(zip(X.chunk(4), Y.chunk(4), labelled, strict=True))
    for batch in chunks:
        joint.step(batch)
    h = [(expected["b"](expected["trunk"](x))[:, 0] - y[:, 1]).square().mean() for x, y, there in chunks if there]
    (gradient,) = torch.autograd.grad(sum(h) / 2, expected["b"].weight)
    torch.testing.assert_close(models["b"].weight, expected["b"].weight - 0.1 * gradient)


def test_a_window_without_any_gradient_updates_nothing():
    models = nets()

    def partly(m, batch):
        both = losses(m, batch[:2])
        return both if batch[2] else {"a": both["a"], "b": None}

    joint = Joint(models=models, losses=partly, optimizers=partial(SGD, lr=0.1), accumulate=2)
    joint.step((X, Y, True))
    joint.step((X, Y, True))
    before = models["b"].weight.detach().clone()
    joint.step((X, Y, False))
    joint.step((X, Y, False))
    assert torch.equal(models["b"].weight, before)
    assert joint.updates == {"trunk": 2, "a": 2, "b": 1}


def test_a_rule_that_looks_at_gradients_weighs_in_each_micro_batch():
    """What is added up is each micro-batch's balanced gradient: not the balance of the mean gradients."""
    models, one = nets(), nets()
    joint = joint_of(models, partial(SGD, lr=0.1), weighting=PCGrad(), accumulate=2)
    chunks = list(zip(X.chunk(2), Y.chunk(2), strict=True))
    start = copy.deepcopy(models)
    for batch in chunks:
        joint.step(batch)
    moves = []
    for batch in chunks:
        alone = copy.deepcopy(one)
        joint_of(alone, partial(SGD, lr=0.1), weighting=PCGrad()).step(batch)
        moves.append([p - q for p, q in zip(parameters(alone), parameters(one), strict=True)])
    for p, q, first, second in zip(parameters(models), parameters(start), *moves, strict=True):
        torch.testing.assert_close(p, q + (first + second) / 2)


def test_a_second_look_only_after_an_update():
    seen = []

    class Watching(FAMO):
        __slots__ = ()

        def after(self, found, state):
            seen.append(joint.steps)
            return super().after(found, state)

    joint = joint_of(nets(), partial(SGD, lr=0.1), weighting=Watching(), accumulate=3)
    for _ in range(6):
        joint.step((X, Y))
    assert seen == [2, 5]


def test_sparse_gradients():
    torch.manual_seed(0)
    table = nn.Embedding(10, 3, sparse=True)
    dense = copy.deepcopy(table)
    dense.sparse = False
    batches = [torch.tensor([1, 2, 2]), torch.tensor([2, 5, 9])]
    for module in (table, dense):
        joint = Joint(
            models={"table": module},
            losses=lambda m, i: {"size": m.table(i).square().sum()},
            optimizers=partial(SGD, lr=0.1),
            accumulate=2,
        )
        for batch in batches:
            joint.step(batch)
    torch.testing.assert_close(table.weight, dense.weight)


@pytest.mark.parametrize("first", [0, 1])
def test_gradients_that_are_sparse_in_some_micro_batches_and_dense_in_others(first):
    table = nn.Embedding(5, 2, sparse=True)
    dense = copy.deepcopy(table)
    dense.sparse = False
    for module in (table, dense):
        joint = Joint(
            models={"table": module},
            losses=lambda m, i: {
                "rows": m.table(torch.tensor([1, 2, 2])).square().sum() if i % 2 else None,
                "all": None if i % 2 else m.table.weight.square().mean(),
            },
            optimizers=partial(SGD, lr=0.1),
            accumulate=3,
        )
        for i in range(first, first + 3):
            joint.step(i)
    torch.testing.assert_close(table.weight, dense.weight)


def test_a_failed_micro_batch_never_happened(picture, same):
    joint = joint_of(nets(), accumulate=3)
    joint.step((X, Y))
    before = picture(joint)
    with pytest.raises(NonFiniteLossError):
        joint.step((X * float("nan"), Y))
    same(before, picture(joint))
    assert joint.step((X, Y)).held == {"trunk": 2, "a": 2, "b": 2}


def test_a_gradient_that_is_not_finite_is_refused_before_it_is_gathered_in(picture, same):
    joint = Joint(
        models={"net": nn.Linear(4, 1, bias=False)},
        losses=lambda m, x: {"root": m.net(x).mean().abs().sqrt()},
        optimizers=partial(SGD, lr=0.1),
        accumulate=2,
        clip=1.0,
    )
    joint.step(X)
    before = picture(joint)
    with pytest.raises(NonFiniteLossError, match=r"the gradient of net\.weight is NaN"):
        joint.step(torch.zeros(3, 4))
    same(before, picture(joint))


def test_resumes_in_the_middle_of_a_window(same):
    whole, first, second = nets(), nets(), nets(seed=9)
    a, b, c = (joint_of(models, accumulate={"trunk": 3, "a": 2}) for models in (whole, first, second))
    batches = list(zip(X.chunk(8), Y.chunk(8), strict=True))
    for batch in batches:
        a.step(batch)
    for batch in batches[:4]:
        b.step(batch)
    c.load_state_dict(copy.deepcopy(b.state_dict()))
    for batch in batches[4:]:
        c.step(batch)
    same(a.state_dict(), c.state_dict())
    assert a.state_dict()["phases"][0]["held"]["trunk"]["count"] == 2


def test_a_frozen_model_drops_what_it_held():
    joint = joint_of(nets(), accumulate=4)
    joint.step((X, Y))
    joint.freeze("a")
    before = joint.models.a.weight.detach().clone()
    assert joint.flush() == ("trunk", "b")
    assert torch.equal(before, joint.models.a.weight)


def test_the_users_own_gradients_stay():
    models = nets()
    joint = joint_of(models, accumulate=2)
    mine = torch.ones_like(models["a"].weight)
    models["a"].weight.grad = mine
    joint.step((X, Y))
    assert models["a"].weight.grad is mine
    assert torch.equal(mine, torch.ones_like(mine))


@pytest.mark.parametrize(
    ("count", "message"),
    [
        (0, "accumulate must be a whole number of at least 1; found 0"),
        (2.0, "found 2.0"),
        (True, "found True"),
        ({"truk": 2}, "Did you mean 'trunk'"),
        ({"trunk": -1}, "accumulate\\['trunk'\\] must be a whole number"),
    ],
)
def test_refused(count, message):
    with pytest.raises(OptimizerError, match=message):
        joint_of(nets(), accumulate=count)


def test_refused_with_an_optimizer_that_evaluates_the_losses():
    models = nets()
    with pytest.raises(OptimizerError, match="accumulate for 'trunk', 'a', 'b'"):
        joint_of(models, LBFGS(parameters(models)), accumulate=2)


def test_repeats_count_as_turns():
    models = nets()
    joint = joint_of(models, phases=Phase(("trunk", "a", "b"), repeat=4), accumulate=2)
    joint.step((X, Y))
    assert joint.updates == {"trunk": 2, "a": 2, "b": 2}
