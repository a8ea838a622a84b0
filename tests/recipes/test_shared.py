"""What the recipes share: data, metrics, networks."""

import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

import cograd
from cograd.recipes import Minibatches, accuracy, draw_images, likeness, load, majority, mlp, predicting, rmse


@pytest.mark.parametrize(("name", "examples"), [("digits", 1797), ("breast_cancer", 569), ("wine", 178)])
def test_no_example_is_lost_or_seen_twice(name, examples):
    data = load(name)
    assert len(data.x) + len(data.test_x) == examples
    assert len(data.x) == len(data.y)
    assert len(data.test_x) == pytest.approx(0.3 * examples, abs=1)
    assert torch.equal(torch.cat([data.y, data.test_y]).bincount(), torch.cat(load(name, seed=1)[1::2]).bincount())


def test_the_scale_of_features_comes_from_the_training_set_alone():
    data = load("diabetes")
    torch.testing.assert_close(data.x.mean(0), torch.zeros(10), atol=1e-5, rtol=0)
    torch.testing.assert_close(data.x.std(0), torch.ones(10))
    assert data.test_x.mean(0).abs().max() > 1e-3
    digits = load("digits")
    assert (digits.x.min(), digits.x.max()) == (-1, 1)


def test_batches_depend_on_seed_and_epoch_alone():
    x = torch.arange(10)
    batches = Minibatches(x, -x, size=4, seed=1)
    torch.manual_seed(5)
    first = list(batches)
    torch.manual_seed(6)
    assert all(torch.equal(a, b) for pair in zip(first, batches, strict=True) for a, b in zip(*pair, strict=True))
    assert [len(a) for a, _ in first] == [4, 4]
    assert all(torch.equal(a, -b) for a, b in first)
    assert not torch.equal(first[0][0], next(iter(Minibatches(x, size=4, seed=2)))[0])
    batches.set_epoch(1)
    assert not torch.equal(first[0][0], next(iter(batches))[0])


def test_metrics_of_known_answers():
    labels = torch.tensor([1, 1, 0, 2])
    assert accuracy(nn.functional.one_hot(torch.tensor([1, 1, 1, 1])), labels) == 0.5
    assert majority(labels, torch.tensor([1, 0, 0, 0])) == 0.25
    assert rmse(torch.tensor([1.0, 5.0]), torch.tensor([1.0, 2.0])) == pytest.approx((9 / 2) ** 0.5)


def test_likeness_needs_both_truth_and_variety():
    data = load("digits")
    alike = likeness(data.x[:540], data.x, data.test_x)
    assert alike > 0.8
    assert likeness(data.x[:1].expand(540, -1), data.x, data.test_x) < 0.1, "one image is not all digits"
    noise = torch.rand(4000, 64) * 2 - 1
    assert likeness(torch.cat([data.x, noise]), data.x, data.test_x) < 0.3, "most are no digits"


def test_predicting_puts_modes_back_and_has_no_gradients():
    nets = {"a": mlp(2, 3, 1).append(nn.Dropout(0.9)), "b": nn.Linear(2, 1)}
    nets["b"].eval()
    joint = cograd.Joint(
        models=nets, losses=lambda m, x: {"a": m.a(x).mean() + m.b(x).mean()}, optimizers=torch.optim.SGD
    )
    with predicting(joint) as m:
        assert not m.a[-1].training
        assert torch.equal(m.a(torch.ones(4, 2)), m.a(torch.ones(4, 2)))
        assert not m.a(torch.ones(1, 2)).requires_grad
    assert nets["a"][-1].training
    assert not nets["b"].training
    assert torch.is_grad_enabled()


def test_images_are_drawn_square_under_their_labels():
    figure = Figure()
    draw_images(figure, [torch.zeros(3, 64), torch.zeros(3, 144)], ["small", "large"])
    assert [axis.images[0].get_array().shape for axis in figure.axes] == [(8, 8)] * 3 + [(12, 12)] * 3
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["small", "", "", "large", "", ""]
