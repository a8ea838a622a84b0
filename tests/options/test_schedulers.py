"""Learning rate schedulers: advanced once per batch or epoch, and only where the optimizer has stepped."""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    MultiStepLR,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)

from cograd import EachEpoch, Fp16, Joint, Phase, alternate
from cograd.errors import NonFiniteLossError, OptimizerError

X = torch.linspace(-1, 1, 32).reshape(8, 4)
HALVE = partial(StepLR, step_size=1, gamma=0.5)


PLAIN = partial(SGD, lr=1.0)


def joint_of(optimizers=PLAIN, **options):
    torch.manual_seed(1)
    models = {"a": nn.Linear(4, 4), "b": nn.Linear(4, 1)}
    if callable(optimizers) and not isinstance(optimizers, partial):
        optimizers = optimizers(models)
    return Joint(
        models=models,
        losses=lambda m, x: {"fit": 1e-3 * m.b(m.a(x)).square().mean()},
        optimizers=optimizers,
        **options,
    )


def rates(joint):
    return {name: optimizer.param_groups[0]["lr"] for name, optimizer in joint.optimizers.items()}


def test_one_for_all():
    joint = joint_of(schedulers=HALVE)
    joint.step(X)
    joint.step(X)
    assert rates(joint) == {"a": 0.25, "b": 0.25}


def test_only_where_its_optimizer_has_stepped():
    joint = joint_of(schedulers=HALVE, phases=alternate("a", "b", every={"b": 3}))
    for _ in range(6):
        joint.step(X)
    assert rates(joint) == {"a": 0.5**6, "b": 0.5**2}


def test_accumulation_does_not_advance_it():
    joint = joint_of(schedulers=HALVE, accumulate={"a": 2})
    for _ in range(5):
        joint.step(X)
    assert rates(joint) == {"a": 0.5**2, "b": 0.5**5}
    joint.flush()
    assert rates(joint) == {"a": 0.5**3, "b": 0.5**5}


def test_once_a_batch_however_often_the_optimizer_steps():
    """Two phases, one of them repeated, share one optimizer: other tools count each of its steps."""
    joint = joint_of(
        lambda m: SGD([*m["a"].parameters(), *m["b"].parameters()], lr=1.0),
        phases=[Phase("a", repeat=3), Phase("b")],
        schedulers=HALVE,
    )
    joint.step(X)
    assert rates(joint) == {"optimizer": 0.5}
    assert joint.steps == 1
    assert joint.updates == {"a": 3, "b": 1}


def test_an_overflow_does_not_advance_it():
    """Schedulers elsewhere run ahead of an optimizer whose first steps were skipped."""
    joint = joint_of(schedulers=HALVE, precision=Fp16(scale=2.0**60))
    report = joint.step(X)
    assert report.overflowed == ("a", "b")
    assert rates(joint) == {"a": 1.0, "b": 1.0}
    assert joint.updates == {"a": 0, "b": 0}


def test_a_batch_that_is_refused_does_not_advance_it():
    joint = joint_of(schedulers=HALVE)
    with pytest.raises(NonFiniteLossError):
        joint.step(X * float("nan"))
    assert rates(joint) == {"a": 1.0, "b": 1.0}


def test_a_batch_that_fails_half_way_advances_what_has_stepped():
    joint = joint_of(schedulers=HALVE, phases=alternate("a", "b"))
    losses = joint._setup.losses
    joint._setup.losses = lambda m, x: losses(m, x * (float("nan") if joint.updates["a"] else 1))
    with pytest.raises(NonFiniteLossError):
        joint.step(X)
    assert rates(joint) == {"a": 0.5, "b": 1.0}


def test_by_epoch():
    joint = joint_of(schedulers={"a": EachEpoch(HALVE), "b": HALVE}, phases=[Phase("a", start=2), Phase("b")])
    joint.step(X)
    joint.end_epoch()
    assert rates(joint) == {"a": 1.0, "b": 0.5}  # a has not stepped yet
    for _ in range(3):
        joint.step(X)
    joint.end_epoch()
    assert rates(joint) == {"a": 0.5, "b": 0.5**4}


def test_by_a_number():
    joint = joint_of(schedulers={"a": EachEpoch(partial(ReduceLROnPlateau, patience=0, factor=0.5), metric="val/fit")})
    for value in (1.0, 2.0, 3.0):
        joint.step(X)
        joint.end_epoch({"val/fit": value})
    assert rates(joint) == {"a": 0.25, "b": 1.0}


def test_a_number_that_is_not_there(picture, same):
    joint = joint_of(schedulers={"a": EachEpoch(ReduceLROnPlateau, metric="val/fit")}, accumulate=2)
    joint.step(X)
    before = picture(joint)
    with pytest.raises(OptimizerError, match=r"looks at 'val/fit'.*Known metrics: 'val/fits'. Did you mean"):
        joint.end_epoch({"val/fits": 1.0})
    with pytest.raises(OptimizerError, match="looks at 'val/fit'"):
        joint.end_epoch()
    same(before, picture(joint))


SCHEDULERS = {
    "step": HALVE,
    "cosine": partial(CosineAnnealingLR, T_max=7),
    "lambda": partial(LambdaLR, lr_lambda=lambda n: 1 / (1 + n)),
    "milestones": partial(MultiStepLR, milestones=[2, 2, 5]),
    "one cycle": partial(OneCycleLR, max_lr=1.0, total_steps=12),
    "warm up": lambda o: SequentialLR(o, [LinearLR(o, total_iters=3), CosineAnnealingLR(o, T_max=5)], milestones=[3]),
}


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step:UserWarning")
def test_as_by_hand_and_resumed_through_a_file(name, tmp_path, same):
    make = SCHEDULERS[name]
    optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = make(optimizer)
    expected = []
    for _ in range(8):
        optimizer.step()
        scheduler.step()
        expected.append(optimizer.param_groups[0]["lr"])

    def build():
        return joint_of(partial(SGD, lr=1.0, momentum=0.5), schedulers={"a": make})

    whole, first, second = build(), build(), build()
    found = []
    for _ in range(8):
        whole.step(X)
        found.append(rates(whole)["a"])
    assert found == expected
    for _ in range(3):
        first.step(X)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for _ in range(5):
        second.step(X)
    same(whole.state_dict(), second.state_dict())


def test_a_scheduler_that_exists():
    joint = joint_of(lambda m: {"o": SGD([*m["a"].parameters(), *m["b"].parameters()], lr=1.0)})
    scheduler = StepLR(joint.optimizers["o"], step_size=1, gamma=0.1)
    again = Joint(
        models={name: joint.models[name] for name in joint.models},
        losses=joint._setup.losses,
        optimizers=joint.optimizers,
        schedulers={"o": scheduler},
    )
    again.step(X)
    assert rates(again) == {"o": 0.1}


@pytest.mark.parametrize(
    ("schedulers", "message"),
    [
        ({"c": HALVE}, "schedulers\\['c'\\] names no optimizer. Known optimizers: 'a', 'b'"),
        ({"a": 3}, "a scheduler or a function from the optimizer to one.*found 3"),
        ({"a": lambda o: None}, "found None"),
        ({"a": ReduceLROnPlateau}, "looks at a number. Name it: cograd.EachEpoch"),
        ({"a": EachEpoch(ReduceLROnPlateau)}, "looks at a number"),
        ({"a": EachEpoch(HALVE, metric="val/fit")}, "looks at no number"),
        ({"a": StepLR(SGD([torch.zeros(1, requires_grad=True)], lr=1.0), 1)}, "schedules another optimizer"),
    ],
)
def test_refused(schedulers, message):
    with pytest.raises(OptimizerError, match=message):
        joint_of(schedulers=schedulers)


def test_another_scheduler_in_the_state():
    saved = joint_of(schedulers={"a": HALVE}).state_dict()
    other = joint_of(schedulers={"a": partial(CosineAnnealingLR, T_max=3)})
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(ValueError, match="scheduler of optimizer 'a' is CosineAnnealingLR; the state is of StepLR"):
        other.load_state_dict(saved)
    with pytest.raises(ValueError, match="The schedulers are those of 'a'; the state has none"):
        other.load_state_dict(joint_of().state_dict())
    assert str(before) == str(other.state_dict())


def listed(schedulers):
    net, head = nn.Linear(2, 2), nn.Linear(2, 1)
    return Joint(
        models={"net": net, "head": head},
        losses=lambda m, x: {"size": m.head(m.net(x)).square().mean()},
        optimizers={"net": [SGD([net.weight], lr=1.0), SGD([net.bias], lr=1.0)], "head": partial(SGD, lr=1.0)},
        schedulers=schedulers,
    )


@pytest.mark.parametrize(
    ("factors", "rates"),
    [
        ({"net": 0.5}, [0.5, 0.5, 1.0]),
        ({"net[1]": 0.5}, [1.0, 0.5, 1.0]),
        ({"net[1]": 0.5, "net": 0.1}, [0.1, 0.5, 1.0]),
        ({"*": 0.5}, [0.5, 0.5, 0.5]),
        ({"net": 0.1, "*": 0.5}, [0.1, 0.1, 0.5]),
        ({"*": 0.5, "net[0]": 0.1}, [0.1, 0.5, 0.5]),
    ],
)
def test_schedulers_of_a_list_of_one_in_it_and_of_the_rest(factors, rates):
    joint = listed({name: partial(ExponentialLR, gamma=factor) for name, factor in factors.items()})
    joint.step(torch.ones(2, 2))
    assert [o.param_groups[0]["lr"] for o in joint.optimizers.values()] == rates


def test_a_scheduler_for_a_list_names_its_entries():
    with pytest.raises(OptimizerError, match=r"schedulers\['met'\] names no optimizer. Known optimizers: 'net\[0\]'"):
        listed({"met": partial(ExponentialLR, gamma=0.5)})
