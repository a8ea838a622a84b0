"""Train the same models twice, by a loop written out by hand and by a ``Joint``, and compare them bit for bit."""

from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import nn


@pytest.fixture(
    params=[
        pytest.param(partial(torch.optim.Adam, lr=1e-2), id="Adam"),
        pytest.param(partial(torch.optim.SGD, lr=5e-2, momentum=0.9, weight_decay=0.1), id="SGD"),
    ]
)
def optimizer(request):
    """``optimizer(parameters)``: a fresh one."""
    return request.param


@pytest.fixture
def batches():
    """Five batches ``[8, 4]``."""
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(8, 4, generator=generator) for _ in range(5)]


@pytest.fixture
def mlp():
    """``mlp(4, 8, 1)``: Linear layers with tanh between them."""

    def build(*widths):
        layers = []
        for i, o in pairwise(widths):
            layers += [nn.Linear(i, o), nn.Tanh()]
        return nn.Sequential(*layers[:-1])

    return build


@pytest.fixture
def check():
    """``check(models, by_hand, joint, batches)``: both ways of training end in the same place.

    ``models()`` gives fresh models by name; ``by_hand(models, batches)`` trains them in place;
    ``joint(models)`` gives the ``Joint``. Every parameter must have moved. Returns the joint.
    """

    def compare(models, by_hand, joint, batches, rtol=0.0):
        torch.manual_seed(0)
        mine = models()
        torch.manual_seed(0)
        theirs = models()
        before = {name: [p.detach().clone() for p in m.parameters()] for name, m in mine.items()}

        torch.manual_seed(1)
        joint = joint(mine)
        for batch in batches:
            joint.step(batch)
        torch.manual_seed(1)
        by_hand(theirs, batches)

        for name in mine:
            for old, p in zip(before[name], mine[name].parameters(), strict=True):
                assert not torch.equal(old, p), f"a parameter of {name} has not moved"
            expected = theirs[name].state_dict()
            for key, value in mine[name].state_dict().items():
                torch.testing.assert_close(
                    value, expected[key], rtol=rtol, atol=rtol, msg=lambda text, at=f"{name}.{key}": f"{at}: {text}"
                )
        return joint

    return compare


@pytest.fixture
def assign():
    """``assign(parameters, gradients)``: put gradients where an optimizer looks for them."""

    def put(parameters, gradients):
        for p, g in zip(parameters, gradients, strict=True):
            p.grad = g

    return put
