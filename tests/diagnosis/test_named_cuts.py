"""Errors of a Joint name the line where the gradient was cut."""

import inspect
import re

import pytest
import torch
from torch import nn
from torch.optim import SGD

import cograd
from cograd.errors import LossError, UnreachedError

X = torch.linspace(-1, 1, 12).reshape(4, 3)


def networks():
    torch.manual_seed(0)
    return {
        "enc": nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Dropout(0.2), nn.BatchNorm1d(4)),
        "dec": nn.Linear(4, 1),
    }


def joint_of(losses, **options):
    options = {"trains": {"fit": ["enc", "dec"]}, "optimizers": SGD} | options
    return cograd.Joint(models=networks(), losses=losses, **options)


def by_detach(m, x):
    z = m.enc(x).detach()  # here
    return {"fit": m.dec(z).mean()}


def by_data(m, x):
    return {"fit": m.dec(m.enc(x).data).mean()}  # here


def by_item(m, x):
    scale = m.enc(x).square().mean().item()  # here
    return {"fit": (m.dec(torch.ones(4, 4)) * scale).mean()}


def by_numpy(m, x):
    z = m.enc(x).cpu()
    z = z.detach().numpy() * 2  # here
    return {"fit": m.dec(torch.from_numpy(z)).mean()}


def by_no_grad(m, x):
    with torch.no_grad():
        z = m.enc(x)  # here
    return {"fit": m.dec(z).mean()}


def by_argmax(m, x):
    return {"fit": m.dec(torch.eye(4)[m.enc(x).argmax(1)]).mean()}  # here


def by_cast(m, x):
    z = m.enc(x).long()  # here
    return {"fit": m.dec(z.float()).mean()}


def by_rewrap(m, x):
    z = torch.tensor(m.enc(x).tolist())  # here
    return {"fit": m.dec(z).mean()}


def by_parameter(m, x):
    z = nn.Parameter(m.enc(x))  # here
    return {"fit": m.dec(z.requires_grad_(False)).mean()}


HOW = {
    by_detach: "detach()",
    by_data: ".data",
    by_item: "item()",
    by_numpy: "numpy()",
    by_no_grad: "no_grad",
    by_argmax: "argmax()",
    by_cast: "long()",
    by_rewrap: "tolist()",
    by_parameter: "nn.Parameter(), a copy",
}


def marked(function):
    lines, first = inspect.getsourcelines(function)
    return next((first + i, line.strip()) for i, line in enumerate(lines) if "# here" in line)


@pytest.mark.parametrize("losses", HOW, ids=lambda f: f.__name__)
def test_an_unreached_model(losses):
    line, source = marked(losses)
    with pytest.raises(UnreachedError, match="'enc'") as caught:
        joint_of(losses).step(X)
    assert f"test_named_cuts.py:{line} by {HOW[losses]}: `{source}`" in str(caught.value)
    found = cograd.explain(losses, X, models=networks(), trains={"fit": ["enc", "dec"]})
    assert ("fit", "enc") in found.broken
    first = next(cut for cut in found.cuts if cut.model == "enc")
    assert (first.file, first.line, first.source, first.how) == (__file__, line, source, HOW[losses])


def test_a_loss_without_graph():
    def losses(m, x):
        fit = m.dec(m.enc(x)).mean()
        fit = fit.detach()  # here
        return {"fit": lambda: fit}

    line, source = marked(losses)
    for run in (lambda joint: joint.step(X), lambda joint: joint.plan(X)):
        with pytest.raises(LossError, match="does not require grad") as caught:
            run(joint_of(losses))
        assert f"It was cut at tests/diagnosis/test_named_cuts.py:{line} by detach(): `{source}`." in str(caught.value)


def test_a_line_that_is_known_takes_the_place_of_the_advice_on_where_to_look():
    def losses(m, x):
        return {"fit": m.dec(m.enc(x).detach()).square().mean()}  # here

    with pytest.raises(UnreachedError) as caught:
        joint_of(losses).step(X)
    line, source = marked(losses)
    place = f"It was cut at tests/diagnosis/test_named_cuts.py:{line} by detach(): `{source}`."
    assert str(caught.value).endswith(f"If that is meant, take the model out of trains. {place}")


def test_a_model_that_no_loss_of_its_phase_reaches():
    def losses(m, x):
        z = m.enc(x).detach()  # here
        return {"fit": m.dec(z).mean()}

    with pytest.raises(UnreachedError, match="but no gradient flows to it from any of its losses") as caught:
        joint_of(losses, trains=None).step(X)
    assert f"test_named_cuts.py:{marked(losses)[0]} by detach()" in str(caught.value)


def test_a_model_that_was_not_used():
    def losses(m, x):
        return {"fit": m.dec(torch.ones(4, 4)).mean()}

    with pytest.raises(UnreachedError, match=r"It was computed without 'enc'\.$"):
        joint_of(losses).step(X)


def test_several_cuts_the_nearest_to_the_loss_first():
    def losses(m, x):
        z = m.enc(x).detach()
        y = m.dec(z).data
        return {"fit": (y * m.dec.weight.sum()).mean()}

    with pytest.raises(UnreachedError) as caught:
        joint_of(losses).step(X)
    assert re.search(r"cut at \S+ by \.data: .*And at \S+ by detach\(\)", str(caught.value))


def test_the_second_look_sees_the_same_random_numbers_and_leaves_nothing_behind(picture, same):
    drawn = []

    def losses(m, x):
        drawn.append(torch.rand(3))
        return {"fit": m.dec(m.enc(x).detach()).mean()}

    joint = joint_of(losses)
    for name in joint.models:
        for p in joint.models[name].parameters():
            p.grad = torch.ones_like(p)
    before = picture(joint)
    with pytest.raises(UnreachedError, match="cut at"):
        joint.plan(X)
    same(picture(joint), before)
    drawn.clear()
    torch.manual_seed(1)
    with pytest.raises(UnreachedError, match="cut at"):
        joint.step(X)
    after = torch.get_rng_state()
    torch.manual_seed(1)
    torch.rand(3)
    joint.models.enc(X)  # draws for dropout, once
    assert torch.equal(after, torch.get_rng_state())
    assert torch.equal(*drawn)


def test_a_second_look_that_fails_leaves_the_error_as_it_was():
    calls = []

    def losses(m, x):
        calls.append(x)
        if len(calls) > 1:
            raise KeyError("gone")
        return {"fit": m.dec(m.enc(x).detach()).mean()}

    with pytest.raises(UnreachedError) as caught:
        joint_of(losses).step(X)
    assert str(caught.value).endswith("argmax, a tensor built anew.")
    (note,) = caught.value.__notes__
    assert note == "Where it was cut is unknown: evaluating the losses again raised KeyError('gone')."


def test_a_good_step_follows_nothing(monkeypatch):
    import cograd.tracing._follow as follow

    monkeypatch.setattr(follow, "Follower", None)
    joint = joint_of(lambda m, x: {"fit": m.dec(m.enc(x)).mean()})
    assert list(joint.step(X).losses) == ["fit"]
