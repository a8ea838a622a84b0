"""``Mean`` and ``Metric`` among the losses: what is differentiated, reported, logged and refused."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import SGD

import cograd
from cograd import Joint, Mean, Metric, Phase, alternate
from cograd.errors import LossError, PhaseError, RouteError, UnreachedError, WeightingError
from cograd.weighting import FAMO, Fixed, PCGrad, Random

torch.manual_seed(0)
X = torch.randn(12, 4)


def nets(seed=1):
    torch.manual_seed(seed)
    return {"trunk": nn.Linear(4, 3), "a": nn.Linear(3, 1), "b": nn.Linear(3, 1)}


def errors(m, x):
    h = m.trunk(x).tanh()
    return (m.a(h) - 1).square(), (m.b(h) + 1).square()


def plain(m, x):
    a, b = errors(m, x)
    return {"a": a.mean(), "b": b.mean()}


def joint_of(losses, **options):
    return Joint(models=nets(), losses=losses, **{"optimizers": partial(SGD, lr=0.1, momentum=0.9)} | options)


def trained(losses, steps=3, **options):
    torch.manual_seed(2)
    joint = joint_of(losses, **options)
    reports = [joint.step(X) for _ in range(steps)]
    return joint, reports[-1]


def wrapped(m, x):
    a, b = errors(m, x)
    return {"a": lambda: Mean(a), "b": Mean(b.mean(), 12), "score": Metric(a.mean()), "big": lambda: Metric(a > 1)}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"weighting": PCGrad()},
        {"weighting": FAMO()},
        {"weights": {"a": 0.3}},
        {"phases": alternate("trunk", "a", "b")},
    ],
    ids=["sum", "gradients", "second look", "weights", "turns"],
)
def test_counts_and_metrics_change_nothing_of_the_training(options, same):
    expected, theirs = trained(plain, **options)
    joint, mine = trained(wrapped, **options)
    same(expected.state_dict(), joint.state_dict())
    same(theirs.losses, mine.losses)
    same(theirs.weights, mine.weights)
    assert mine.counts == {"a": 12, "b": 12}
    assert list(mine.metrics) == ["score", "big"]
    first = mine.phases[0]
    assert torch.equal(first.metrics["score"], first.losses["a"])
    assert not mine.metrics["score"].requires_grad
    assert 0 <= mine.metrics["big"] <= 1


def test_a_rule_that_draws_draws_for_losses_only(same):
    """A metric must not take part in what a rule distributes."""
    expected, _ = trained(plain, weighting=Random(seed=3))
    for metric in (Metric(1.0), lambda: Metric(1.0)):
        joint, _ = trained(lambda m, x, metric=metric: plain(m, x) | {"score": metric}, weighting=Random(seed=3))
        same(expected.state_dict()["models"], joint.state_dict()["models"])


def test_a_metric_that_becomes_a_loss_is_refused(picture, same):
    joint = joint_of(lambda m, x: plain(m, x) | {"score": Metric(1.0) if joint.steps < 2 else errors(m, x)[0].mean()})
    joint.step(X), joint.step(X)
    before = picture(joint)
    with pytest.raises(LossError, match=r"'score' was a cograd.Metric in an earlier batch, and is a loss now"):
        joint.step(X)
    same(before, picture(joint))


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        (Metric(3), 3.0),
        (Metric(np.float32(0.5)), 0.5),
        (Metric(torch.tensor([1.0, 3.0])), 2.0),
        (Metric(torch.tensor([True, False, False, False])), 0.25),
        (Metric(torch.tensor([[2], [5]])), 3.5),
        (Metric(torch.tensor([4.0]), 7), 4.0),
        (Metric(math.nan), math.nan),
        (Metric(torch.tensor(2.0), torch.tensor(3)), 2.0),
        (Metric(math.nan, 0), None),
        (Metric(torch.zeros(0)), None),
        (Metric(torch.tensor(math.nan), 0), None),
    ],
)
def test_what_a_metric_reports(metric, expected):
    joint = joint_of(lambda m, x: plain(m, x) | {"seen": metric})
    found = joint.step(X).metrics
    assert found == ({} if expected is None else {"seen": pytest.approx(expected, nan_ok=True)})
    evaluated = joint.evaluate(X)
    assert ("seen" in evaluated) is (expected is not None)
    assert all(isinstance(value, torch.Tensor) and not value.dim() for value in evaluated.values())


def test_cograd_backward_reports_them():
    net = nn.Linear(4, 1)
    report = cograd.backward({"size": Mean(net(X).square()), "mean": Metric(net(X)), "late": lambda: Metric(2)})
    assert (list(report.losses), report.counts, list(report.metrics)) == (["size"], {"size": 12}, ["mean", "late"])
    expected = torch.autograd.grad(net(X).square().mean(), net.weight)[0]
    assert torch.equal(net.weight.grad, expected)
    with pytest.raises(WeightingError, match=r"weights\['mean'\] names 'mean', which .* returns as a Metric"):
        cograd.backward({"size": net(X).mean(), "mean": lambda: Metric(1)}, weights={"mean": 2.0})


@pytest.mark.parametrize("count", [0, 0.0, torch.tensor(0), torch.tensor(0.0)])
def test_a_count_of_zero_is_an_absent_loss_whatever_its_value(count, same):
    def unlabelled(m, x):
        a, b = errors(m, x)
        return {"a": a.mean(), "b": Mean(b[:0].mean(), count)}

    joint, report = trained(unlabelled)
    expected, _ = trained(lambda m, x: plain(m, x) | {"b": None})
    same(expected.state_dict(), joint.state_dict())
    assert (list(report.losses), report.counts, report.skipped) == (["a"], {}, ("b",))
    assert list(joint.evaluate(X)) == ["a"]


def test_a_mean_over_no_elements_is_an_absent_loss():
    joint = joint_of(lambda m, x: {"a": errors(m, x)[0].mean(), "b": Mean(errors(m, x)[1][:0])})
    assert list(joint.step(X).losses) == ["a"]


def test_a_metric_is_no_excuse_for_a_model_that_nothing_trains():
    """A metric counts neither as a loss that could train a model nor as one that is only absent now."""
    cut = lambda m, x: {"a": m.a(m.trunk(x)).mean(), "b": Metric(m.b(m.trunk(x)).mean())}  # noqa: E731
    with pytest.raises(UnreachedError, match="updates 'b', but no gradient flows"):
        joint_of(cut).step(X)
    late = lambda m, x: {"a": m.a(m.trunk(x)).mean(), "b": lambda: Metric(m.b(m.trunk(x)).mean())}  # noqa: E731
    with pytest.raises(UnreachedError, match="updates 'b', but no gradient flows"):
        joint_of(late).step(X)


@pytest.mark.parametrize("late", [False, True], ids=["value", "callable"])
@pytest.mark.parametrize(
    ("options", "error", "where"),
    [
        ({"trains": {"score": "a"}}, RouteError, r"trains\['score'\]"),
        ({"weights": {"score": 2.0}}, WeightingError, r"weights\['score'\]"),
        (
            {"phases": Phase(("trunk", "a", "b"), losses=["a", "b", "score"])},
            PhaseError,
            "the phase 'update trunk, a, b, by",
        ),
        ({"weighting": Fixed({"score": 1.0})}, WeightingError, "Fixed"),
    ],
    ids=["trains", "weights", "phase", "rule"],
)
def test_a_metric_that_is_named_as_a_loss_is_refused(options, error, where, late, picture, same):
    metric = (lambda: Metric(1)) if late else Metric(1)
    joint = joint_of(lambda m, x: plain(m, x) | {"score": metric}, **options)
    before = picture(joint)
    with pytest.raises(error, match=where + r".* names 'score', which the losses function returns as a Metric: it is"):
        joint.step(X)
    same(before, picture(joint))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Mean(0.5), "Mean takes a tensor.*; found 0.5.*Do not convert it"),
        (lambda: Mean(torch.ones(3), 3), r"Mean\(value, count\) takes a value that is a mean already.*shape \(3,\)"),
        (lambda: Mean(torch.ones(()), -1), "The count of a Mean is a number of at least 0.*found -1"),
        (lambda: Mean(torch.ones(()), math.nan), "found nan"),
        (lambda: Mean(torch.ones(()), True), "found True"),
        (lambda: Mean(torch.ones(()), "12"), "found '12'"),
        (lambda: Mean(torch.ones(()), torch.ones(2)), r"found a float32 tensor of shape \(2,\)"),
        (lambda: Metric("high"), "Metric takes a number, or a tensor.*found 'high'"),
        (lambda: Metric(torch.ones(2) * 1j), "found a complex64 tensor"),
        (lambda: Metric(torch.ones(2), 2), r"Metric\(value, count\) takes a value that is a mean already"),
        (lambda: Metric(1.0, -2), "The count of a Metric"),
    ],
)
def test_what_cannot_be_counted_is_refused(make, words):
    with pytest.raises(LossError, match=words):
        make()


@pytest.mark.parametrize("count", [torch.tensor(-1), torch.tensor(math.nan)])
def test_a_count_that_is_no_count_is_refused_by_the_name_of_its_loss(count):
    with pytest.raises(LossError, match="The count of loss 'b' is a number of at least 0; found"):
        joint_of(lambda m, x: plain(m, x) | {"b": Mean(errors(m, x)[1].mean(), count)}).step(X)


def test_a_mean_of_integers_is_refused_as_any_loss():
    with pytest.raises(LossError, match="loss 'b' must be a floating tensor"):
        joint_of(lambda m, x: plain(m, x) | {"b": Mean(torch.ones(3, dtype=torch.int64))}).step(X)


# -- in a run ---------------------------------------------------------------------------------------------------------


def test_a_run_logs_metrics_and_can_be_stopped_by_them():
    joint = joint_of(lambda m, x: plain(m, x) | {"steps": Metric(joint.steps), "late": lambda: Metric(torch.ones(3))})
    history = cograd.fit(
        joint,
        [X] * 4,
        epochs=9,
        validate=[X],
        stop=cograd.Target("metric/steps", 5.0, higher_is_better=True),
        best="val/steps",
        log_every=2,
        progress=False,
    )
    assert history["metric/steps"].values[:3] == [0.5, 2.5, 4.5]
    assert set(history["metric/late"].values) == {1.0}
    assert history["val/steps"].values[0] == 4.0
    assert "metric/steps is" in history.stopped_by
    with pytest.raises(cograd.errors.UnknownValueError, match=r"'metric/step'.*Did you mean 'metric/steps'"):
        cograd.fit(joint, [X], epochs=1, stop=cograd.Target("metric/step", 1.0), log_every=1, progress=False)


def test_means_of_a_validation_are_over_samples():
    """Two of five labels in the one batch, one of one in the other; a third without any."""
    labels = [torch.tensor([1, 0, 1, 0, 0]).bool(), torch.tensor([True]), torch.zeros(3).bool()]
    data = [(torch.randn(len(there), 4), there, torch.zeros(5)) for there in labels]

    def losses(m, batch):
        x, there, _ = batch
        a, _ = errors(m, x)
        labelled = a[:, 0][there]
        known = Metric(labelled.mean(), there.sum())
        return {"all": Mean(a), "labelled": Mean(labelled.mean(), there.sum()), "each": Mean(labelled), "known": known}

    joint = joint_of(losses)
    with torch.no_grad():
        a = torch.cat([errors(joint.models, x)[0][:, 0] for x, *_ in data])
    there = torch.cat(labels)
    found = cograd.Validation(data)(joint, None)
    expected = {"all": a.mean().item(), **dict.fromkeys(["labelled", "each", "known"], a[there].mean().item())}
    assert found == pytest.approx(expected, rel=1e-6)


def test_a_count_in_some_batches_only_is_refused():
    joint = joint_of(lambda m, x: {"a": Mean(errors(m, x)[0]) if len(x) == 2 else errors(m, x)[0].mean()})
    with pytest.raises(LossError, match="'a' came with a count in 1 of 2 batches of the validation"):
        cograd.Validation([X[:2], X[:3]])(joint, None)


class Graphs:
    def __init__(self, sizes):
        self.x, self.batch = torch.randn(sum(sizes), 4), torch.repeat_interleave(torch.tensor(sizes))
        self.num_graphs = len(sizes)


class Sampled(Graphs):
    def __init__(self, sizes):
        super().__init__(sizes)
        self.batch_size = self.num_graphs
        del self.num_graphs


class Dictionary(dict):
    """As a TensorDict: ``batch_size`` is a shape."""

    def __init__(self, sizes):
        super().__init__(x=torch.randn(sum(sizes), 4), more=torch.zeros(50))
        self.batch_size = torch.Size([len(sizes)])

    x = property(lambda self: self["x"])


@pytest.mark.parametrize("kind", [Graphs, Sampled, Dictionary])
@pytest.mark.parametrize(
    "wrap", [lambda batch, n: batch, lambda batch, n: (batch, torch.zeros(n))], ids=["alone", "pair"]
)
def test_objects_that_say_how_many_examples_they_hold_count_by_that(kind, wrap):
    data = [wrap(kind([1, 2, 1]), 3), wrap(kind([4]), 1)]
    joint = joint_of(lambda m, b: plain(m, (b[0] if isinstance(b, tuple) else b).x))
    first, second = (joint.evaluate(batch)["a"].item() for batch in data)
    assert cograd.Validation(data)(joint, None)["a"] == pytest.approx((3 * first + second) / 4)
