"""Rules of one's own that look at the gradients themselves."""

import io
from functools import partial

import pytest
import torch
from torch import nn

import cograd
from cograd.errors import WeightingError
from cograd.weighting import FromJacobian, JacobianWeighting, Stateful, Weighting


class Agreement(JacobianWeighting):
    """Moves only where all gradients have the same sign."""

    def direction(self, seen, state):
        return seen.jacobian.sum(0) * (seen.jacobian.sign().sum(0).abs() == len(seen.names)), state


class Smoothed(JacobianWeighting):
    """Remembers the last sum, and looks at losses, Gramian and magnitudes too."""

    needs = frozenset({"jacobian", "losses", "gramian", "abs"})
    remembers = True

    def direction(self, seen, state):
        torch.testing.assert_close(seen.gramian, (seen.jacobian @ seen.jacobian.T).double())
        torch.testing.assert_close(seen.abs[:, 0], seen.jacobian.abs().amax(1).double())
        assert all(seen.present)
        assert (seen.losses > 0).all()
        now = seen.jacobian.sum(0) / seen.losses.sum()
        return now + 0.5 * state.get("last", 0 * now), {"last": now}


def networks():
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4)).double()
    return {
        "trunk": trunk,
        "a": nn.Linear(4, 1).double(),
        "b": nn.Linear(4, 2).double(),
        "own": nn.Linear(3, 1).double(),
    }


X = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(4, 3)


def losses(m, x=X):
    z = m["trunk"](x)
    return {
        "a": (m["a"](z) - 1).square().mean(),
        "b": (m["b"](z).sin() + 1).square().mean(),
        "own": m["own"](x).square().mean(),
    }


def by_hand(m, direct):
    """``direct`` of the two gradients of the trunk; plain gradients of everything else."""
    found = losses(m)
    shared = list(m["trunk"].parameters())
    rows = [torch.autograd.grad(found[k], shared, retain_graph=True) for k in ("a", "b")]
    sum(found.values()).backward()
    jacobian = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
    parts = direct(jacobian, found).split([p.numel() for p in shared])
    for p, part in zip(shared, parts, strict=True):
        p.grad = part.view_as(p)


def assert_same_gradients(ours, theirs):
    for name in ours:
        for p, q in zip(ours[name].parameters(), theirs[name].parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-10, atol=1e-12, msg=name)


def agree(jacobian, _):
    return jacobian.sum(0) * (jacobian.sign().sum(0).abs() == 2)


@pytest.mark.parametrize("gramian", [None, cograd.gramian.Rows(), cograd.gramian.Layerwise()])
def test_the_direction_takes_the_place_of_the_shared_gradient(gramian):
    ours, theirs = networks(), networks()
    by_hand(theirs, agree)
    report = cograd.backward(losses(ours), weighting=Agreement(), gramian=gramian)
    assert_same_gradients(ours, theirs)
    assert report.weights == dict.fromkeys(("a", "b", "own"), 1.0)
    assert report.plan.rule == "Agreement"
    plain = networks()
    sum(losses(plain).values()).backward()
    assert not plain["trunk"][0].weight.grad.equal(ours["trunk"][0].weight.grad)


def test_also_where_a_loss_must_not_train_what_it_reaches():
    ours, theirs = networks(), networks()
    by_hand(theirs, agree)
    theirs["b"].zero_grad()
    cograd.backward(losses(ours), models=ours, trains={"b": "trunk"}, weighting=Agreement())
    for p, q in zip(ours["trunk"].parameters(), theirs["trunk"].parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)
    assert all(p.grad is None for p in ours["b"].parameters())


def test_a_users_rule_does_what_the_same_function_does():
    ours, theirs = networks(), networks()
    cograd.backward(losses(ours), weighting=Agreement())
    cograd.backward(losses(theirs), weighting=FromJacobian(lambda j: agree(j, None)))
    assert_same_gradients(ours, theirs)


def test_each_set_of_losses_has_a_direction_of_its_own():
    shapes = []

    class Noting(JacobianWeighting):
        def direction(self, seen, state):
            shapes.append((seen.names, tuple(seen.jacobian.shape)))
            return seen.jacobian.sum(0), state

    p, q = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))
    cograd.backward({"a": p.sum(), "b": (2 * p).sum(), "c": q.sum(), "d": q.prod()}, weighting=Noting())
    assert shapes == [(("a", "b"), (2, 2)), (("c", "d"), (2, 3))]
    assert p.grad.tolist() == [3.0, 3.0]
    assert q.grad.tolist() == [2.0, 2.0, 2.0]


def joint(rule, models, **options):
    return cograd.Joint(
        models=models, losses=losses, optimizers=partial(torch.optim.SGD, lr=0.1), weighting=rule, **options
    )


def test_a_joint_keeps_its_state_and_resumes():
    first, second = networks(), networks()
    one, other = joint(Smoothed(), first), joint(Smoothed(), second)
    for _ in range(2):
        one.step(X)
    file = io.BytesIO()
    torch.save(one.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    one.step(X)
    other.step(X)
    for name in first:
        for p, q in zip(first[name].parameters(), second[name].parameters(), strict=True):
            assert p.equal(q)


def test_what_it_remembers_counts():
    ours, theirs, balance = networks(), networks(), Stateful(Smoothed())
    for m in (ours, theirs):
        for _ in range(2):
            for model in m.values():
                model.zero_grad()
            cograd.backward(losses(m), weighting=balance if m is ours else Stateful(Smoothed()))
    once, twice = theirs["trunk"][0].weight.grad, ours["trunk"][0].weight.grad
    torch.testing.assert_close(twice, 1.5 * once)


def test_a_rule_that_remembers_needs_a_place():
    with pytest.raises(WeightingError, match="Smoothed remembers earlier steps"):
        cograd.backward(losses(networks()), weighting=Smoothed())


# -- what is refused -------------------------------------------------------------------------------------------------


def a_rule(**attributes):
    return type("Mine", (Weighting,), {"weigh": lambda self, seen, state: (torch.ones(2), state), **attributes})()


def forms(rule):
    yield lambda: cograd.backward(losses(networks()), weighting=rule)
    yield lambda: cograd.grad(losses(networks()), models=networks(), weighting=rule)
    yield lambda: joint(rule, networks())
    yield lambda: joint(None, networks(), phases=cograd.Phase(networks(), weighting=rule))
    yield lambda: Stateful(rule)


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (a_rule(needs=frozenset({"jacobian"})), "Mine needs 'jacobian', and gives weights.*JacobianWeighting"),
        (a_rule(needs={"losses", "jacobian"}), "Mine needs 'jacobian', and gives weights"),
        (a_rule(needs={"gramain"}), "Mine needs 'gramain'; a rule can ask for 'abs', 'after', 'gramian', 'jacobian'"),
        (a_rule(needs={"losses", "hessian", "fisher"}), "Mine needs 'fisher', 'hessian'; a rule can ask for"),
        (a_rule(needs=["losses"]), r"Mine: needs is a set of names.*found \['losses'\]"),
        (a_rule(needs="losses"), "Mine: needs is a set of names.*found 'losses'"),
        (a_rule(needs=None), "Mine: needs is a set of names.*found None"),
        (a_rule(needs={1}), "Mine needs '1'; a rule can ask for"),
        (type("Mine", (Agreement,), {"needs": {"gramian"}})(), "Mine gives a direction, so it needs 'jacobian'"),
    ],
)
def test_a_rule_that_cannot_be_asked_is_refused_wherever_it_is_given(rule, words):
    for call in forms(rule):
        with pytest.raises(WeightingError, match=words):
            call()


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (torch.ones(2), r"Mine.weigh must return two things, the weights and the next state.*found \(2,\)"),
        (None, "found NoneType"),
        ((torch.ones(2), None), "found tuple"),
        ((torch.ones(4), {}), r"a weight for each of the 3 losses 'a', 'b', 'own'; found \(4,\)"),
        (([1.0] * 3, {}), "found list"),
    ],
)
def test_a_rule_that_gives_no_weights_is_refused(returned, words):
    m = networks()
    rule = a_rule(weigh=lambda self, seen, state: returned)
    with pytest.raises(WeightingError, match=words):
        cograd.backward(losses(m), weighting=rule)
    assert all(p.grad is None for model in m.values() for p in model.parameters())


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (torch.ones(44), "Mine.direction must return two things, the direction and the next state"),
        ((torch.ones(2), {}), "must return a direction of 44 elements; found"),
        ((torch.full((44,), torch.nan), {}), "NaN or infinity"),
    ],
)
def test_a_direction_that_is_none_is_refused(returned, words):
    m = networks()
    rule = type("Mine", (JacobianWeighting,), {"direction": lambda self, seen, state: returned})()
    with pytest.raises(WeightingError, match=words):
        cograd.backward(losses(m), weighting=rule)
    assert all(p.grad is None for model in m.values() for p in model.parameters())


def test_it_cannot_be_made_without_a_direction():
    with pytest.raises(TypeError, match="direction"):
        type("Mine", (JacobianWeighting,), {})()


@pytest.mark.parametrize("rule", [Agreement(), Smoothed(), cograd.weighting.LRAnnealing("a")])
def test_what_needs_the_gradients_themselves_cannot_look_elsewhere(rule):
    with pytest.raises(WeightingError, match=f"{type(rule).__name__} needs those of the parameters themselves"):
        joint(rule, networks(), gramian=cograd.gramian.At("trunk"))


def test_nobody_gives_a_gradient():
    class Silent(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, g):
            return None

    p = nn.Parameter(torch.ones(2))
    cograd.backward({"a": Silent.apply(p).sum(), "b": Silent.apply(p).sum()}, weighting=Agreement())
    assert p.grad is None
