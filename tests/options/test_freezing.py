"""Models that are done: no phase updates them, and the others go on."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.optim import SGD

from cograd import Joint, alternate
from cograd.errors import ModelError

X = torch.linspace(-1, 1, 32).reshape(8, 4)


def joint_of(**options):
    torch.manual_seed(1)
    return Joint(
        models={"gen": nn.Linear(4, 3), "disc": nn.Linear(3, 1)},
        losses=lambda m, x: {
            "disc": lambda: m.disc(m.gen(x)).square().mean(),
            "gen": lambda: (m.disc(m.gen(x)) - 1).square().mean(),
        },
        trains={"disc": "disc", "gen": "gen"},
        optimizers=partial(SGD, lr=0.1, momentum=0.9, weight_decay=0.1),
        **options,
    )


@pytest.mark.parametrize("phases", [None, alternate("disc", "gen")])
def test_a_frozen_model_does_not_move_by_a_hair(phases):
    joint = joint_of(phases=phases)
    joint.step(X)
    joint.freeze("disc")
    disc, gen = joint.models.disc.weight.detach().clone(), joint.models.gen.weight.detach().clone()
    report = joint.step(X)
    assert torch.equal(disc, joint.models.disc.weight)
    assert not torch.equal(gen, joint.models.gen.weight)
    assert joint.frozen == ("disc",)
    assert list(report.losses) == ["gen"]
    assert joint.updates == {"gen": 2, "disc": 1}
    assert "update disc" not in str(joint.plan(X)) or phases is None


def test_all_frozen():
    joint = joint_of()
    joint.freeze("disc", "gen")
    assert joint.step(X).losses == {}
    assert joint.steps == 1


def test_it_is_in_the_state():
    joint, other = joint_of(), joint_of()
    joint.freeze("disc")
    other.load_state_dict(joint.state_dict())
    assert other.frozen == ("disc",)
    other.models.disc.requires_grad_(True)
    other.step(X)
    assert other.updates == {"gen": 1, "disc": 1}


def test_no_such_model():
    joint = joint_of()
    with pytest.raises(ModelError, match=r"freeze\('dics'\) names no model that is trained.*Did you mean 'disc'"):
        joint.freeze("gen", "dics")
    assert joint.frozen == ()
