"""An error in the losses of the user says in which phase, loss and line it was, and on what batch."""

import re
from functools import partial

import pytest
import torch
from torch import nn

import cograd

X = torch.ones(8, 4)


def eager(m, x):
    h = m.net(x)
    return {"size": h.square().mean()}


def lazy(m, x):
    return {
        "size": lambda: m.net(x).square().mean(),
        "other": lambda: m.net(x[0][0][0]).mean(),
    }


def bound(scale, m, x):
    return {"size": m.net(x).mean() * scale["missing"]}


def notes(function, losses, batch, **options):
    joint = cograd.Joint(models={"net": nn.Linear(4, 1)}, losses=losses, optimizers=torch.optim.SGD, **options)
    with pytest.raises((AttributeError, IndexError, KeyError, RuntimeError, TypeError)) as caught:
        function(joint)(batch)
    return caught.value.__notes__


@pytest.mark.parametrize(
    ("losses", "batch", "where", "what"),
    [
        (eager, None, r"at test_whereabouts.py:\d+: h = m.net\(x\)\.", "None"),
        (eager, X.double(), r"at test_whereabouts.py:\d+: h = m.net\(x\)\.", "float64 [8, 4]"),
        (eager, torch.ones(8, 3), r"at test_whereabouts.py:\d+: h = m.net\(x\)\.", "float32 [8, 3]"),
        (lazy, X, r"in loss 'other', at test_whereabouts.py:\d+: .other.: lambda", "float32 [8, 4]"),
        (partial(bound, {}), X, r"at test_whereabouts.py:\d+: return", "float32 [8, 4]"),
    ],
)
def test_a_step_and_an_evaluation_say_where(losses, batch, where, what):
    found = notes(lambda joint: joint.step, losses, batch)
    assert re.match(f"This was in the phase 'update net', {where}", found[0]), found
    assert found[1] == f"The batch is {what}."
    found = notes(lambda joint: joint.evaluate, losses, batch)
    assert re.match(f"This was in an evaluation, {where}", found[0]), found
    assert found[1] == f"The batch is {what}."


def test_the_phase_is_the_one_that_failed():
    joint = cograd.Joint(
        models={"a": nn.Linear(4, 1), "b": nn.Linear(4, 1)},
        losses=lambda m, x: {"a": lambda: m.a(x).mean(), "b": lambda: m.b(x.double()).mean()},
        trains={"a": "a", "b": "b"},
        optimizers=torch.optim.SGD,
        phases=cograd.alternate("a", "b"),
    )
    with pytest.raises(RuntimeError) as caught:
        joint.step(X)
    assert caught.value.__notes__[0].startswith("This was in the phase 'update b', in loss 'b', at ")
