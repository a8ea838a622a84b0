"""Validation: what it measures, and that the training cannot tell that it was there."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchmetrics
from torch import nn
from torch.utils.data import DataLoader

import cograd
from cograd.errors import LoaderError, TrainingError
from cograd.training._validation import parse_validate, validate


def make(seed=0):
    torch.manual_seed(seed)
    trunk = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5))
    heads = {"digit": nn.Linear(8, 3), "parity": nn.Linear(8, 1)}

    def losses(m, batch):
        h = m.trunk(batch["x"])
        parity = nn.functional.softplus(m.parity(h)).mean() if batch.get("both", True) else None
        return {"digit": nn.functional.cross_entropy(m.digit(h), batch["y"]), "parity": parity}

    return cograd.Joint(models={"trunk": trunk, **heads}, losses=losses, optimizers=torch.optim.SGD)


def batches(*sizes, **more):
    return [{"x": torch.randn(n, 4), "y": torch.randint(3, (n,)), **more} for n in sizes]


def measured(given, joint=None):
    return validate(parse_validate(given), joint or make(), None)


def test_the_mean_of_a_loader_is_weighted_by_the_sizes_of_its_batches():
    joint, data = make(), batches(8, 8, 3)
    whole = {key: torch.cat([batch[key] for batch in data]) for key in data[0]}
    expected = joint.evaluate(whole)
    found = measured(data, joint)
    assert list(found) == ["val/digit", "val/parity"]
    assert found["val/digit"] == pytest.approx(expected["digit"].item(), rel=1e-5)
    assert found["val/parity"] == pytest.approx(expected["parity"].item(), rel=1e-5)


def test_where_sizes_disagree_every_batch_counts_once():
    joint, data = make(), batches(8, 2, more=torch.zeros(5))
    each = [joint.evaluate(batch)["digit"].item() for batch in data]
    validation = cograd.Validation(data)
    with pytest.warns(UserWarning, match=r"each counts the same in the mean of 'digit', 'parity'.*cograd\.Mean"):
        assert measured(validation, joint)["val/digit"] == pytest.approx(sum(each) / 2)
    assert measured(validation, joint)["val/digit"] == pytest.approx(sum(each) / 2)  # and says it once


def test_an_absent_loss_does_not_count():
    joint = make()
    data = [*batches(4, 6), *batches(5, both=False)]
    a, b = (joint.evaluate(batch)["parity"].item() for batch in data[:2])
    assert measured(data, joint)["val/parity"] == pytest.approx((4 * a + 6 * b) / 10)
    assert list(measured(batches(5, both=False), joint)) == ["val/digit"]


def test_a_loss_that_is_not_finite_is_shown_as_it_is():
    joint = make()
    data = batches(4, 4)
    data[1]["x"][:] = float("inf")
    assert np.isnan(measured(data, joint)["val/digit"])


def test_a_function_gives_its_numbers():
    found = measured(lambda joint: {"accuracy": torch.tensor(0.5), "val/other": np.float64(2), "more": {"a": 1}})
    assert found == {"val/accuracy": 0.5, "val/other": 2.0, "val/more/a": 1.0}
    assert all(type(value) is float for value in found.values())


def test_metrics_of_torchmetrics():
    joint, data = make(), batches(8, 8)
    accuracy = torchmetrics.classification.MulticlassAccuracy(3, average="micro")
    both = torchmetrics.MetricCollection({"f1": torchmetrics.classification.MulticlassF1Score(3, average="micro")})

    def predict(m, batch):
        assert not torch.is_grad_enabled()
        return m.digit(m.trunk(batch["x"])), batch["y"]

    validation = cograd.Validation(data, predict=predict, metrics={"acc": accuracy, "more": both}, losses=False)
    x, y = (torch.cat([batch[key] for batch in data]) for key in ("x", "y"))
    joint.models.trunk.eval()
    expected = (joint.models.digit(joint.models.trunk(x)).argmax(1) == y).float().mean().item()
    first, again = measured(validation, joint), measured(validation, joint)
    assert list(first) == ["val/acc", "val/more/f1"]
    assert first == again
    assert first["val/acc"] == pytest.approx(expected)


def test_each_metric_may_have_predictions_of_its_own():
    def predict(m, batch):
        h = m.trunk(batch["x"])
        return {"digit": (m.digit(h), batch["y"]), "size": (m.parity(h)[:, 0],)}

    accuracy = torchmetrics.classification.MulticlassAccuracy(3)
    metrics = {"digit": accuracy, "size": torchmetrics.MeanMetric()}
    validation = cograd.Validation(batches(8), predict=predict, metrics=metrics, losses=False)
    assert list(measured(validation)) == ["val/digit", "val/size"]
    with pytest.raises(TrainingError, match=r"metrics\['digit'\] has the name of a loss"):
        measured(cograd.Validation(batches(8), predict=predict, metrics=metrics))


def test_followers_are_among_the_models():
    net = nn.Linear(1, 1)
    joint = cograd.Joint(
        models={"net": net},
        losses=lambda m, x: {"size": m.net(x).square().mean()},
        optimizers=torch.optim.SGD(net.parameters(), lr=0.5),
        followers={"ema": cograd.EMA("net", 0.9)},
    )
    mean = torchmetrics.MeanMetric()
    validation = cograd.Validation([torch.ones(2, 1)], predict=lambda m, x: (m.ema(x),), metrics={"ema": mean})
    joint.step(torch.ones(2, 1))
    found = measured(validation, joint)
    assert found["val/ema"] == pytest.approx(joint.models.ema(torch.ones(1, 1)).item())
    assert found["val/ema"] != pytest.approx(net(torch.ones(1, 1)).item())


def noisy(joint):
    """A function that draws, predicts, and forgets the modes that it set."""
    torch.rand(3), np.random.rand(), torch.nn.functional.dropout(torch.ones(3))
    h = joint.models.trunk(torch.randn(5, 4))
    assert not h.requires_grad
    joint.models.digit.train()
    joint.models.trunk.train()
    return {"size": h.square().mean()}


shuffled = DataLoader(batches(1) * 7, batch_size=None, shuffle=True)
own = DataLoader(batches(1) * 7, batch_size=None, shuffle=True, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("given", [noisy, shuffled, own], ids=["function", "loader", "generator"])
def test_the_training_is_the_same_to_the_last_bit(given, picture, same):
    joint, other = make(), make()
    for one in (joint, other):
        one.models.parity.eval()
        one.models.digit.bias.requires_grad_(False)
    data = batches(6, 6, 6)
    for i in range(2):
        torch.manual_seed(5)
        np.random.seed(5)
        drawn = []
        for batch in data:
            (joint, other)[i].step(batch)
            if i:
                before = own.generator.get_state()
                measured(given, other)
                assert torch.equal(before, own.generator.get_state())
            drawn.append((torch.rand(1).item(), np.random.rand()))
        if not i:
            expected = drawn
    assert drawn == expected
    a, b = picture(joint), picture(other)
    del a["grad objects"], b["grad objects"]
    same(a, b)
    assert other.models.trunk.training
    assert not other.models.parity.training


def test_everything_is_put_back_after_an_error(picture, same):
    joint = make()
    before, state = picture(joint), torch.get_rng_state()

    def fails(joint):
        torch.rand(1)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        measured(fails, joint)
    same(picture(joint), before)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("make_it", "error", "says"),
    [
        (lambda: parse_validate(iter([1])), LoaderError, "read only once"),
        (lambda: parse_validate(3), LoaderError, "a function .* a loader, or cograd.Validation.*found 3"),
        (lambda: parse_validate([]), LoaderError, "validate is empty"),
        (lambda: parse_validate({"a": 1}), LoaderError, "validate is a dict"),
        (lambda: cograd.Validation([1], predict=3, metrics={}), TrainingError, "predict must be a function.*found 3"),
        (
            lambda: cograd.Validation([1], metrics={"a": 3}),
            TrainingError,
            r"metrics\['a'\] must be an object with update, compute and reset; found 3",
        ),
        (lambda: cograd.Validation([1], metrics=[3]), TrainingError, "metrics maps names to metrics"),
        (lambda: cograd.Validation([1], predict=print), TrainingError, "predict and metrics need each other"),
        (lambda: cograd.Validation([1], losses=False), TrainingError, "leaves nothing to validate"),
        (lambda: measured(lambda joint: 3), TrainingError, "must return name -> number; found int"),
        (lambda: measured(lambda joint: {"a": "b"}), TrainingError, "one number for 'a'; found 'b'"),
        (lambda: measured(lambda joint: {"a": torch.ones(2)}), TrainingError, "one number for 'a'"),
        (lambda: measured(lambda joint: {3: 3}), TrainingError, "name -> number"),
    ],
)
def test_what_is_refused(make_it, error, says):
    with pytest.raises(error, match=says):
        make_it()


def test_predictions_that_do_not_fit():
    metrics = {"mean": torchmetrics.MeanMetric()}
    with pytest.raises(TrainingError, match=r"must return a tuple such as .* found Tensor for 'mean'"):
        measured(cograd.Validation(batches(2), predict=lambda m, b: b["x"], metrics=metrics))
    with pytest.raises(TrainingError, match=r"'maen', which is no metric.*Did you mean 'mean'"):
        measured(cograd.Validation(batches(2), predict=lambda m, b: {"maen": (b["x"],)}, metrics=metrics))


def test_a_loader_that_turns_out_empty():
    class Empty:
        def __iter__(self):
            return iter(())

    with pytest.raises(LoaderError, match="The loader of validate gives no batches"):
        measured(Empty())


def test_sizes_are_found_in_nested_batches():
    joint = cograd.Joint(
        models={"net": nn.Linear(1, 1)},
        losses=lambda m, b: {"size": (m.net.weight.sum() * 0 + b.pair[0].mean())},
        optimizers=torch.optim.SGD,
    )
    data = [
        SimpleNamespace(pair=(torch.full((n, 1), v), ["name"] * n), scale=torch.tensor(1.0))
        for n, v in ((3, 1.0), (1, 5.0))
    ]
    assert measured(data, joint) == {"val/size": 2.0}
