"""Saving, loading, copying, freezing and failing at odd moments."""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, ExponentialLR, OneCycleLR, SequentialLR, StepLR

from cograd import EMA, EachEpoch, Joint, Phase, alternate
from cograd.errors import ModelError, NonFiniteLossError, PartialStepError, StateError
from cograd.weighting import FAMO, PCGrad

XS = list(torch.randn(6, 4, 3, generator=torch.Generator().manual_seed(0)))
ADAM = partial(Adam, lr=0.1)


def size(m, x):
    return {"size": None if x is None else m.b(m.a(x)).square().mean()}


def two(m, x):
    return {"size": None, "first": None} if x is None else size(m, x) | {"first": m.a(x).square().mean()}


def make(losses=size, optimizers=ADAM, **options):
    torch.manual_seed(0)
    models = {"a": nn.Linear(3, 3), "b": nn.Linear(3, 1)}
    return Joint(models=models, losses=losses, optimizers=optimizers, **options)


def test_a_state_replaces_what_was_gathered(same):
    """Of another run, in a model that was frozen when the state was taken."""
    whole = make(accumulate=2)
    whole.freeze("b")
    whole.step(XS[0])
    whole.models.b.requires_grad_(True)
    saved = copy.deepcopy(whole.state_dict())
    other = make(accumulate=2)
    other.step(XS[1] * 100)
    other.load_state_dict(saved)
    for x in XS[2:4]:
        whole.step(x)
        other.step(x)
    same(whole.state_dict()["models"], other.state_dict()["models"])


def test_a_state_without_anything_gathered_leaves_nothing_gathered():
    joint = make(accumulate=2)
    joint.step(XS[0] * 100)
    joint.load_state_dict(copy.deepcopy(make().state_dict()))
    joint.step(XS[1])
    assert joint.updates == {"a": 0, "b": 0}


def test_a_scheduler_that_fails_says_that_the_step_is_made():
    joint = make(schedulers=partial(OneCycleLR, max_lr=0.1, total_steps=3))
    for x in XS[:3]:
        joint.step(x)
    with pytest.raises(
        PartialStepError, match=r"the scheduler of optimizer 'a' failed after the step .ValueError: Tried"
    ):
        joint.step(XS[3])
    assert joint.steps == 4
    assert joint.updates == {"a": 4, "b": 4}


class OwnError(Exception):
    pass


def test_a_scheduler_that_fails_hides_no_other_error():
    def fails_late(m, x):
        if joint.updates["a"] == 4:
            raise OwnError
        return size(m, x)

    joint = make(
        fails_late, phases=alternate("a", "b"), schedulers={"a": partial(OneCycleLR, max_lr=0.1, total_steps=3)}
    )
    for x in XS[:3]:
        joint.step(x)
    with pytest.raises(OwnError) as caught:
        joint.step(XS[3])
    assert "scheduler of optimizer 'a'" in caught.value.__notes__[0]


@pytest.mark.parametrize("phases", [None, [Phase(("a", "b")), Phase(("c", "a"))]])
def test_losses_of_a_frozen_model_sit_out_also_after_a_restart(phases, same):
    def three(m, x):
        h = m.a(x)
        return {"l0": h.square().mean(), "l1": (m.b(h) - 1).square().mean(), "l2": (m.c(h) * m.b(h)).mean()}

    def build():
        torch.manual_seed(1)
        models = {name: nn.Linear(3, 3) for name in "abc"}
        return Joint(models=models, losses=three, optimizers=partial(SGD, lr=0.01), phases=phases)

    joint, other = build(), build()
    joint.step(XS[0])
    joint.freeze("a")
    joint.step(XS[1])
    other.load_state_dict(copy.deepcopy(joint.state_dict()))
    joint.step(XS[2])
    other.step(XS[2])
    same(joint.state_dict()["models"], other.state_dict()["models"])


def test_an_update_by_what_was_gathered_before_has_nothing_to_look_back_at():
    joint = make(two, weighting=FAMO(), accumulate=2)
    joint.step(XS[0])
    report = joint.step(None)
    assert joint.updates == {"a": 1, "b": 1}
    assert report.losses == {}
    joint.step(XS[1])
    joint.step(XS[2])
    assert joint.updates == {"a": 2, "b": 2}


@pytest.mark.parametrize("stepped", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"trains": {"size": ["a", "b"], "first": "a"}, "phases": alternate("a", "b")},
        {"weighting": PCGrad(), "accumulate": 2, "clip": 1.0},
        {"followers": {"mean": EMA("a", 0.5)}, "schedulers": partial(StepLR, step_size=1)},
    ],
    ids=["plain", "turns", "rule", "followers"],
)
@pytest.mark.filterwarnings("ignore:Seems like `optimizer.step:UserWarning")
def test_a_copy_trains_by_itself(stepped, options, same):
    joint = make(two, **options)
    if stepped:
        joint.step(XS[0])
    other = copy.deepcopy(joint)
    before = copy.deepcopy(joint.state_dict())
    for x in XS[1:4]:
        other.step(x)
    same(before, joint.state_dict())
    for x in XS[1:4]:
        joint.step(x)
    same(joint.state_dict(), other.state_dict())


def test_a_late_check_forgets_what_was_rolled_back():
    joint = make(check="late")
    saved = copy.deepcopy(joint.state_dict())
    joint.step(XS[0] * float("nan"))
    joint.load_state_dict(saved)
    joint.step(XS[0])
    joint.step(XS[1])
    joint.step(XS[0] * float("nan"))
    with pytest.raises(NonFiniteLossError, match="one step ago"):
        joint.step(XS[1])


def test_schedulers_inside_of_schedulers_are_compared(picture, same):
    def first(optimizer):
        return SequentialLR(optimizer, [ConstantLR(optimizer, 0.1, 2), ExponentialLR(optimizer, 0.9)], [2])

    def second(optimizer):
        return SequentialLR(optimizer, [ConstantLR(optimizer, 0.1, 2), CosineAnnealingLR(optimizer, 5)], [2])

    joint = make(schedulers=first)
    before = picture(joint)
    with pytest.raises(StateError, match=r"is SequentialLR\(ConstantLR, ExponentialLR\); the state is of Sequential"):
        joint.load_state_dict(make(schedulers=second).state_dict())
    same(before, picture(joint))


def test_a_model_that_has_grown_is_refused_before_anything_moves():
    joint = make(followers={"mean": EMA("b")})
    joint.step(XS[0])
    before = joint.models.a.weight.detach().clone()
    extra = nn.Linear(1, 1)
    joint.models.b.extra = extra
    joint.optimizers["b"].add_param_group({"params": list(extra.parameters())})
    with pytest.raises(ModelError, match=r"has changed its parameters since followers\['mean'\]"):
        joint.step(XS[1])
    assert torch.equal(before, joint.models.a.weight)


def test_a_state_can_be_taken_after_a_part_was_removed_in_mid_window():
    joint = make(accumulate=2)
    joint.step(XS[0])
    joint.models.b.bias = None
    assert set(joint.state_dict()["phases"][0]["held"]["b"]["sums"]) == {"weight"}


def test_a_decay_that_is_no_number():
    with pytest.raises(ModelError, match="found nan after 0 updates"):
        EMA("a", decay=lambda n: float("nan"))


def test_what_is_gathered_is_applied_without_gradients_too():
    joint = make(accumulate=2, schedulers={"a": EachEpoch(partial(StepLR, step_size=1))})
    joint.step(XS[0])
    with torch.no_grad():
        joint.end_epoch()
    assert joint.updates == {"a": 1, "b": 1}


def test_a_flush_that_fails_is_not_made_twice():
    class Fails(SGD):
        def step(self, closure=None):
            super().step(closure)
            raise OwnError

    joint = make(optimizers=partial(Fails, lr=0.1), accumulate=2)
    joint.step(XS[0])
    with pytest.raises(PartialStepError):
        joint.flush()
    assert joint.flush() == ()


def test_a_scale_of_float16_does_not_come_from_float32():
    joint = make(precision="fp16")
    joint.load_state_dict(make().state_dict())
    assert joint.state_dict()["precision"]["scale"] == 65536.0
