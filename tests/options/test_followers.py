"""Followers: averages and copies that trail behind a model."""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.optim import SGD
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from cograd import EMA, Copy, Joint, alternate
from cograd.errors import ModelError, PartialStepError, PhaseError, RouteError

X = torch.linspace(-1, 1, 32).reshape(8, 4)


def net(seed=1):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Tanh(), nn.Linear(3, 1))


def joint_of(model=None, losses=lambda m, x: {"fit": (m.net(x) - 1).square().mean()}, **options):
    optimizers = options.pop("optimizers", partial(SGD, lr=0.1))
    return Joint(models={"net": model or net()}, losses=losses, optimizers=optimizers, **options)


def equal(a, b):
    return all(torch.equal(v, b.state_dict()[key]) for key, v in a.state_dict().items())


def test_an_average_as_torch_has_it():
    model, other = net(), net()
    joint = joint_of(model, followers={"average": EMA("net", decay=0.9)})
    theirs = AveragedModel(other, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=False)
    theirs.n_averaged += 1  # the first call of AveragedModel copies; here the copy exists from the start
    optimizer = SGD(other.parameters(), lr=0.1)
    for _ in range(5):
        joint.step(X)
        (other(X) - 1).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        theirs.update_parameters(other)
    for p, q in zip(joint.models.average.parameters(), theirs.module.parameters(), strict=True):
        assert torch.equal(p, q)
    for b, c in zip(joint.models.average.buffers(), other.buffers(), strict=True):
        assert torch.equal(b, c)
    assert joint.updates == {"net": 5, "average": 5}


def test_a_warm_up():
    joint = joint_of(followers={"average": EMA("net", decay=lambda n: min(0.5, n / 4))})
    joint.step(X)
    assert equal(joint.models.average, joint.models.net)
    joint.step(X)
    assert not equal(joint.models.average, joint.models.net)


def test_every_so_many_updates_of_the_model():
    """Updates, not batches: with accumulation over two, each second batch is one."""
    joint = joint_of(followers={"target": Copy("net", every=3)}, accumulate=2)
    same = []
    for _ in range(13):
        joint.step(X)
        same.append(torch.equal(joint.models.target[0].weight, joint.models.net[0].weight))
    assert [step for step, is_same in enumerate(same) if is_same] == [0, 5, 6, 11, 12]
    assert joint.updates == {"net": 6, "target": 2}


def test_the_losses_see_it():
    """Q-learning in small: the target network is a model like any other, and frozen."""

    def losses(m, x):
        goal = m.target(x)
        assert not goal.requires_grad
        return {"td": (m.net(x) - goal - 1).square().mean()}

    joint = joint_of(losses=losses, followers={"target": Copy("net", every=2)})
    start = copy.deepcopy(joint.models.target)
    joint.step(X)
    assert equal(start, joint.models.target)
    joint.step(X)
    assert not equal(start, joint.models.target)


def test_a_later_phase_sees_it_up_to_date():
    torch.manual_seed(0)
    seen = []

    def losses(m, x):
        seen.append(equal(m.target, m.net))
        return {"fit": m.net(x).square().mean(), "head": (m.head(x) - m.target(x)).square().mean()}

    joint = Joint(
        models={"net": nn.Linear(4, 1), "head": nn.Linear(4, 1)},
        losses=losses,
        trains={"head": "head"},
        optimizers=partial(SGD, lr=0.1),
        phases=alternate("net", "head"),
        followers={"target": Copy("net")},
    )
    joint.step(X)
    assert seen == [True, True]


def test_it_stays_in_the_mode_that_it_was_put_into():
    joint = joint_of(followers={"average": EMA("net")})
    assert not joint.models.average.training
    joint.models.average.train()
    joint.step(X)
    joint.evaluate(X)
    assert joint.models.average.training


def test_resumed_through_a_file(tmp_path, same):
    def build():
        return joint_of(net(), followers={"average": EMA("net", decay=0.5, every=2), "target": Copy("net", every=3)})

    whole, first, second = build(), build(), build()
    for _ in range(7):
        whole.step(X)
    for _ in range(4):
        first.step(X)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for _ in range(3):
        second.step(X)
    same(whole.state_dict(), second.state_dict())


def test_a_step_that_fails_moves_no_follower(picture, same):
    joint = joint_of(losses=lambda m, x: {"fit": m.net(x).mean().log()}, followers={"average": EMA("net")})
    before = picture(joint)["parameters"]
    with pytest.raises(FloatingPointError):
        joint.step(X * float("nan"))
    same(before, picture(joint)["parameters"])


def test_a_decay_that_fails_is_said_to_come_late():
    joint = joint_of(followers={"average": EMA("net", decay=lambda n: 1 / (1 - n))})
    joint.step(X)
    with pytest.raises(PartialStepError, match=r"follower 'average' failed after the step .ZeroDivisionError"):
        joint.step(X)


class Unlike(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.derived = self.weight * 2


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: EMA("net", decay=1.5), ModelError, "from 0 to 1.*found 1.5"),
        (lambda: EMA("net", every=0), ModelError, "EMA\\(every=...\\) is a whole number"),
        (lambda: Copy("net", every=1.5), ModelError, "Copy\\(every=...\\)"),
        (lambda: joint_of(followers=[EMA("net")]), ModelError, "maps names to EMA or Copy"),
        (lambda: joint_of(followers={"net": EMA("net")}), ModelError, "has the name of a model"),
        (lambda: joint_of(followers={"f": EMA("nat")}), ModelError, "follows 'nat'.*Did you mean 'net'"),
        (lambda: joint_of(followers={"f": net()}), ModelError, "cograd.EMA\\(...\\) or cograd.Copy"),
        (lambda: joint_of(followers={"f": EMA("net")}).freeze("f"), ModelError, "no model that is trained"),
        (lambda: joint_of(followers={1: EMA("net")}), ModelError, "non-empty string"),
        (
            lambda: joint_of(Unlike(), followers={"f": EMA("net")}),
            ModelError,
            "copy.deepcopy of models\\['net'\\] fails",
        ),
        (lambda: joint_of(followers={"f": EMA("net")}, trains={"fit": "f"}), RouteError, "names model 'f'"),
        (
            lambda: joint_of(followers={"f": EMA("net")}, phases=alternate("net", "f")),
            PhaseError,
            "no parameter that requires grad",
        ),
    ],
)
def test_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_another_follower_in_the_state():
    with pytest.raises(ValueError, match="The followers are 'f'; the state has none"):
        joint_of(followers={"f": EMA("net")}).load_state_dict(joint_of().state_dict())
