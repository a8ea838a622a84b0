"""Rules from elsewhere, unmodified: TorchJD's own step and ours take the same gradient."""

import copy
import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.optim import LBFGS, SGD
from torchjd import aggregation
from torchjd.autojac import jac_to_grad, mtl_backward

import cograd
from cograd.errors import WeightingError
from cograd.weighting import FromGramian, FromJacobian, LRAnnealing, Stateful

X = torch.linspace(-1, 1, 24, dtype=torch.float64).reshape(6, 4).sin()
WEIGHTINGS = [
    aggregation.UPGradWeighting,
    aggregation.MGDAWeighting,
    aggregation.PCGradWeighting,
    aggregation.AlignedMTLWeighting,
    aggregation.DualProjWeighting,
    aggregation.IMTLGWeighting,
]
AGGREGATORS = {
    "ConFIG": aggregation.ConFIG,
    "GradDrop": aggregation.GradDrop,
    "TrimmedMean": partial(aggregation.TrimmedMean, 1),
}


def network():
    torch.manual_seed(6)
    trunk = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh())
    return nn.ModuleDict({"trunk": trunk, "a": nn.Linear(5, 1), "b": nn.Linear(5, 2), "c": nn.Linear(5, 1)}).double()


def losses_on(z, m):
    return {
        "a": (m["a"](z) - 1).square().mean(),
        "b": (m["b"](z).sin() + z[:, :2]).square().mean(),
        "c": 3 * (m["c"](z) + 1).square().mean(),
    }


def losses(m, x=X):
    return losses_on(m["trunk"](x), m)


def by_torchjd(m, aggregator, x=X):
    """Fill ``.grad`` as TorchJD's users do."""
    z = m["trunk"](x)
    mtl_backward(list(losses_on(z, m).values()), features=z)
    jac_to_grad(in_our_order(m, x), aggregator)


def in_our_order(m, x):
    """The parameters of the trunk as our columns are ordered, which decides which random number is whose."""
    seen = []
    cograd.grad(losses(m, x), models=dict(m.items()), weighting=FromJacobian(lambda j: seen.append(j) or j[0]))
    columns = seen[0].T
    return sorted(
        m["trunk"].parameters(),
        key=lambda p: int((columns - p.jac.flatten(1)[:, 0]).abs().sum(1).argmin()),
    )


def assert_same_gradients(ours, theirs):
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-8, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}")


def aggregator_of(weighting):
    """TorchJD's aggregator that uses ``weighting``."""
    return getattr(aggregation, type(weighting).__name__.removesuffix("Weighting"))()


@pytest.mark.parametrize("kind", WEIGHTINGS)
@pytest.mark.parametrize("gramian", [None, cograd.gramian.Rows()], ids=["automatic", "rows"])
def test_a_weighting_of_torchjd_takes_its_own_gradient(kind, gramian):
    ours, theirs = network(), network()
    torch.manual_seed(1)
    by_torchjd(theirs, aggregator_of(kind()))
    torch.manual_seed(1)
    report = cograd.backward(losses(ours), weighting=kind(), gramian=gramian)
    assert_same_gradients(ours, theirs)
    assert report.plan.rule == "FromGramian"


@pytest.mark.parametrize("kind", WEIGHTINGS)
def test_a_weighting_of_torchjd_trains_a_joint(kind):
    ours, theirs = network(), network()
    joint = cograd.Joint(
        models=dict(ours.items()),
        losses=lambda m, x: losses(m, x),
        optimizers=partial(SGD, lr=0.05, momentum=0.9),
        weighting=kind(),
    )
    optimizer = SGD(theirs.parameters(), lr=0.05, momentum=0.9)
    for i in range(4):
        torch.manual_seed(i)
        joint.step(X + i)
        torch.manual_seed(i)
        optimizer.zero_grad()
        by_torchjd(theirs, aggregator_of(kind()), X + i)
        optimizer.step()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("make", AGGREGATORS.values(), ids=AGGREGATORS)
def test_an_aggregator_of_torchjd_takes_its_own_gradient(make):
    ours, theirs = network(), network()
    torch.manual_seed(1)
    by_torchjd(theirs, make())
    torch.manual_seed(1)
    report = cograd.backward(losses(ours), weighting=FromJacobian(make()))
    assert_same_gradients(ours, theirs)
    assert report.weights == dict.fromkeys("abc", 1.0)


@pytest.mark.parametrize("make", AGGREGATORS.values(), ids=AGGREGATORS)
def test_an_aggregator_of_torchjd_trains_a_joint(make):
    ours, theirs = network(), network()
    before = copy.deepcopy(ours)
    joint = cograd.Joint(
        models=dict(ours.items()),
        losses=lambda m, x: losses(m, x),
        optimizers=partial(SGD, lr=0.05),
        weighting=FromJacobian(make()),
    )
    optimizer = SGD(theirs.parameters(), lr=0.05)
    for i in range(3):
        torch.manual_seed(i)
        joint.step(X + i)
        torch.manual_seed(i)
        optimizer.zero_grad()
        by_torchjd(theirs, make(), X + i)
        optimizer.step()
    for p, q, r in zip(ours.parameters(), theirs.parameters(), before.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-8, atol=1e-10)
        assert not p.equal(r)


def test_a_direction_may_not_depend_on_how_the_jacobian_is_cut_into_parameters():
    m = network()
    seen = []
    cograd.backward(losses(m), weighting=FromJacobian(lambda j: seen.append(j) or j.sum(0)))
    (jacobian,) = seen
    shared = list(m["trunk"].parameters())
    assert jacobian.shape == (3, sum(p.numel() for p in shared))
    plain = network()
    sum(losses(plain).values()).backward()
    for p, q in zip(shared, plain["trunk"].parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-10, atol=1e-12)


def test_a_direction_becomes_gradients_of_the_parameters_own_kind():
    m = network().bfloat16()
    cograd.backward(losses(m, X.bfloat16()), weighting=FromJacobian(lambda j: j.mean(0)))
    assert {p.grad.dtype for p in m.parameters()} == {torch.bfloat16}


def words(sparse):
    torch.manual_seed(2)
    table = nn.Embedding(7, 3, sparse=sparse).double()
    y = table(torch.tensor([[0, 2, 2], [5, 1, 0]]))
    return table, {"a": y.sin().sum(), "b": (y - 1).square().sum()}


@pytest.mark.parametrize(
    "make", [lambda: FromJacobian(lambda j: j.median(0).values), lambda: Stateful(LRAnnealing("a"))]
)
def test_sparse_gradients_are_looked_at_as_dense_ones(make):
    (table, sparse), (twin, dense) = words(True), words(False)
    found = cograd.backward(sparse, weighting=make())
    expected = cograd.backward(dense, weighting=make())
    assert found.weights == pytest.approx(expected.weights)
    torch.testing.assert_close(table.weight.grad.to_dense(), twin.weight.grad)


# -- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (torch.ones(2), r"one weight per loss, \[3\]; found \(2,\)"),
        (torch.ones(3, 1), r"found \(3, 1\)"),
        ([1.0, 1.0, 1.0], "found list"),
        (None, "found NoneType"),
        (torch.tensor([1.0, math.nan, 1.0]), "finite weights.*nan"),
        (torch.tensor([1.0, math.inf, 1.0]), "finite weights.*inf"),
    ],
)
def test_weights_that_are_none_are_refused(returned, words):
    m = network()
    with pytest.raises(WeightingError, match=words):
        cograd.backward(losses(m), weighting=lambda gramian: returned)
    assert all(p.grad is None for p in m.parameters())


@pytest.mark.parametrize(
    ("direct", "words"),
    [
        (lambda j: j, "must return a direction of 65 elements"),
        (lambda j: j[0, :4], "found"),
        (lambda j: None, "found NoneType"),
        (lambda j: j[0] * math.nan, "NaN or infinity"),
    ],
)
def test_a_direction_that_is_none_is_refused(direct, words):
    m = network()
    with pytest.raises(WeightingError, match=words):
        cograd.backward(losses(m), weighting=FromJacobian(direct))
    assert all(p.grad is None for p in m.parameters())


def test_a_direction_cannot_be_used_again():
    with pytest.raises(WeightingError, match="refresh=2 uses weights again, and FromJacobian gives a direction"):
        Stateful(FromJacobian(aggregation.ConFIG()), refresh=2)


def test_a_direction_is_no_objective_for_an_optimizer_that_searches():
    with pytest.raises(WeightingError, match="FromJacobian gives a direction"):
        cograd.Joint(
            models={"net": network()},
            losses=lambda m, x: losses(m.net),
            optimizers=LBFGS,
            weighting=FromJacobian(aggregation.ConFIG()),
        )


def test_a_function_sees_only_the_losses_that_are_there():
    sizes = []
    m = network()
    values = losses(m) | {"b": None}
    report = cograd.backward(values, weighting=lambda g: sizes.append(g.shape) or torch.tensor([2.0, 3.0]))
    assert sizes == [(2, 2)]
    assert report.weights == {"a": 2.0, "c": 3.0}
    rule = FromGramian(lambda g: g.diagonal())
    gramian = torch.diag(torch.tensor([1.0, 5.0, 3.0]))
    assert rule(gramian=gramian, present=(True, False, True)).tolist() == [1.0, 0.0, 3.0]
