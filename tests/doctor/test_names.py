"""What the doctor calls models that no variable holds by itself, and terms without a name."""

import pytest

INSIDE = """
import torch
from torch import nn


class System:
    def __init__(self):
        self.parts = {"gen": nn.Linear(4, 4), "disc": nn.Linear(4, 1)}

    def score(self, x):
        return self.parts["disc"](self.parts["gen"](x)).mean()


def main():
    system = System()
    optimizer = torch.optim.SGD([p for m in system.parts.values() for p in m.parameters()], lr=0.1)
    for _ in range(3):
        loss = system.score(torch.ones(2, 4))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


main()
"""
JOINT = """
import torch
from torch import nn

import cograd

joint = cograd.Joint(
    models={"gen": nn.Linear(4, 4), "disc": nn.Linear(4, 1)},
    losses=lambda m, x: {"score": m.disc(m.gen(x)).mean()},
    optimizers=torch.optim.SGD,
)
cograd.fit(joint, [torch.ones(2, 4)], epochs=3, progress=False)
"""
HIDDEN = """
import torch
from torch import nn


def make():
    parts = [[nn.Linear(4, 1)]]
    optimizer = torch.optim.SGD(parts[0][0].parameters(), lr=0.1)

    def step():
        loss = parts[0][0](torch.ones(2, 4)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


step = make()
for _ in range(3):
    step()
"""


@pytest.fixture
def trained(examine, script):
    return lambda text: [route["models"] for route in examine(script(text))["routes"]]


def test_in_a_dict_of_an_object(trained):
    assert trained(INSIDE) == [["system.parts['disc']", "system.parts['gen']"]]


def test_in_a_joint(trained):
    assert trained(JOINT) == [["joint.models.disc", "joint.models.gen"]]


def test_too_deep_to_be_named(trained):
    assert trained(HIDDEN) == [["a model that no variable holds"]]


SUM = """
import torch
from torch import nn

actor, critic = nn.Linear(4, 2), nn.Linear(6, 1)
critic.requires_grad_(False)
optimizer = torch.optim.Adam(actor.parameters())
for _ in range(4):
    state = torch.randn(16, 4)
    action = torch.distributions.Normal(actor(state), 1.0).sample()
    loss = -critic(torch.cat([state, action], 1)).mean() + 0.01 * actor(state).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
"""


def test_a_term_that_has_no_name_is_not_called_by_that_of_the_sum(examine, script):
    (message,) = [f["message"] for f in examine(script(SUM))["findings"] if f["rule"] == "cut-term"]
    assert message.startswith("critic(torch.cat([state, action], 1)).mean() is part of loss, but sends no gradient")
