"""A compiled model goes by the names of what it compiles: in states, reports and messages."""

import io

import pytest
import torch
from torch import nn
from torch.optim import Adam

from cograd import EMA, Joint
from cograd.errors import ModelError, OptimizerError


def compiled(module):
    return torch.compile(module, backend="eager")


def net(how):
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh())
    if how == "a part":
        inner = compiled(inner)
    whole = nn.Sequential(inner, nn.Linear(4, 1))
    whole[1].bias.requires_grad_(False)
    return compiled(whole) if how == "the whole" else whole


def build(how):
    return Joint(
        models={"net": net(how)},
        losses=lambda m, x: {"size": m.net(x).square().mean()},
        optimizers=lambda ps: Adam(ps, lr=0.01),
        followers={"average": EMA("net", decay=0.5)},
        accumulate=2,
    )


def saved(joint):
    file = io.BytesIO()
    torch.save(joint.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


KINDS = ("plain", "a part", "the whole")


@pytest.mark.parametrize("there", KINDS)
@pytest.mark.parametrize("here", KINDS)
def test_states_of_compiled_models_load_into_plain_ones_and_back(here, there, same):
    first, second = build(here), build(there)
    xs = [torch.randn(5, 3) for _ in range(6)]
    first.models.net.eval()
    for x in xs[:3]:
        first.step(x)
    state = saved(first)
    assert not [key for key in state["models"]["net"] if "_orig_mod" in key]
    second.load_state_dict(state)
    assert not any(m.training for m in second.models.net.modules())
    same(state, saved(second))
    for x in xs[3:]:
        first.step(x)
        second.step(x)
    same(saved(first), saved(second))


def test_versions_of_modules_are_kept():
    state = saved(build("the whole"))["models"]["net"]
    assert state._metadata["0.1"] == {"version": 2}
    assert state._metadata == saved(build("plain"))["models"]["net"]._metadata


def test_reports_and_messages_use_the_plain_names():
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.spare = nn.Linear(3, 1), nn.Linear(3, 1)

        def forward(self, x):
            return self.used(x)

    half = compiled(Half())
    joint = Joint(models={"half": half}, losses=lambda m, x: {"y": m.half(x).mean()}, optimizers=torch.optim.SGD)
    assert joint.step(torch.ones(2, 3)).without_grad == {"half": ("spare.weight", "spare.bias")}
    with pytest.raises(OptimizerError, match=r"half\.used\.weight"):
        Joint(models={"half": half}, losses=lambda m, x: {}, optimizers={"half": Adam(half.spare.parameters())})
    with pytest.raises(ModelError, match=r"is half\.used, inside"):
        Joint(models={"half": half, "used": half.used}, losses=lambda m, x: {}, optimizers=torch.optim.SGD)
