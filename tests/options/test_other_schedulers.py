"""Schedulers that are like torch's, and are advanced in another way: by a count, by a number that may be left out."""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

import cograd
from cograd import EachEpoch, Joint, alternate
from cograd.errors import OptimizerError, PartialStepError


class ByEpoch:
    """As in timm, without a number of its own: ``step`` must be told the epoch."""

    def __init__(self, optimizer):
        self.optimizer, self.told = optimizer, []

    def step(self, epoch, metric=None):
        self.told.append((epoch, metric))
        for group in self.optimizer.param_groups:
            group["lr"] = 1 / (1 + epoch)

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


class Timm(ByEpoch):
    """As timm's: another method for updates, and a flag that says which of the two does something."""

    def __init__(self, optimizer, t_in_epochs=True):
        super().__init__(optimizer)
        self.t_in_epochs = t_in_epochs

    def step(self, epoch, metric=None):
        if self.t_in_epochs:
            super().step(epoch, metric)

    def step_update(self, num_updates, metric=None):
        if not self.t_in_epochs:
            super().step(num_updates, metric)


class WarmUp(LRScheduler):
    """A warm-up that passes an optional number on to what comes after it."""

    def __init__(self, optimizer, after=None):
        self.after_scheduler, self.seen = after and after(optimizer), []
        super().__init__(optimizer)

    def get_lr(self):
        return [base * min(1, (self.last_epoch + 1) / 4) for base in self.base_lrs]

    def step(self, epoch=None, metrics=None):
        self.seen.append(metrics)
        super().step(epoch)


class ByLoss(ByEpoch):
    def step(self, loss):
        raise AssertionError("never called")


class Fails(ByEpoch):
    def step(self):
        raise ZeroDivisionError("no more epochs")


def make(schedulers=None, lr=1.0, **options):
    torch.manual_seed(0)
    models = {"a": nn.Linear(2, 2), "b": nn.Linear(2, 1)}
    return Joint(
        models=models,
        losses=lambda m, x: {"size": 1e-3 * m.b(m.a(x)).square().mean()},
        optimizers=partial(SGD, lr=lr),
        schedulers=schedulers,
        **options,
    )


def rates(joint):
    return {name: optimizer.param_groups[0]["lr"] for name, optimizer in joint.optimizers.items()}


X = torch.ones(3, 2)


def test_one_that_must_be_told_the_epoch_is_told_how_often_it_advanced():
    joint = make({"a": ByEpoch, "b": EachEpoch(ByEpoch)})
    for _ in range(3):
        joint.step(X)
    joint.end_epoch()
    assert rates(joint) == {"a": 1 / 4, "b": 1 / 2}
    again = make({"a": ByEpoch, "b": EachEpoch(ByEpoch)})
    again.load_state_dict(copy.deepcopy(joint.state_dict()))
    again.step(X)
    again.end_epoch()
    assert rates(again) == {"a": 1 / 5, "b": 1 / 3}


def test_one_of_timm_counts_updates_or_epochs_as_it_was_made():
    joint = make({"a": partial(Timm, t_in_epochs=False), "b": EachEpoch(Timm)})
    for _ in range(3):
        joint.step(X)
    joint.end_epoch()
    assert rates(joint) == {"a": 1 / 4, "b": 1 / 2}


def test_a_number_that_may_be_left_out():
    joint = make({"a": WarmUp, "b": EachEpoch(WarmUp, metric="val/size")})
    joint.step(X)
    joint.end_epoch({"val/size": 0.5})
    assert rates(joint) == {"a": 0.5, "b": 0.5}
    a, b = (schedule.scheduler.seen for schedule in joint._schedules.values())
    assert (a, b) == ([None, None], [None, 0.5])  # the first by itself, as it is made


def test_a_number_by_its_other_name():
    joint = make({"a": EachEpoch(ByEpoch, metric="val/size")})
    joint.step(X)
    joint.end_epoch({"val/size": 0.5})
    assert joint._schedules["a"].scheduler.told == [(1, 0.5)]


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        (Timm, r"schedulers\['a'\], a Timm, counts epochs \(t_in_epochs=True\): wrap it, cograd.EachEpoch"),
        (EachEpoch(partial(Timm, t_in_epochs=False)), r"a Timm, counts updates .*leave out cograd.EachEpoch"),
        (
            partial(WarmUp, after=ReduceLROnPlateau),
            r'a WarmUp, looks at a number. Name it: cograd.EachEpoch\(..., metric="val/l',
        ),
        (
            ByLoss,
            r"a ByLoss, cannot be advanced: its step\(\) needs 'loss'. It gets a count \('epoch', 'num_updates'\)",
        ),
        (CosineAnnealingLR, r"found CosineAnnealingLR\(optimizer, T_max.*partial\(CosineAnnealingLR, T_max=...\)"),
        (EachEpoch(CosineAnnealingLR), r"schedulers\['a'\] .*partial\(CosineAnnealingLR, T_max=...\)"),
        (partial(CosineAnnealingLR, T=3), r"schedulers\['a'\] "),
        (lambda o: 1 / 0, r"schedulers\['a'\] is a function that fails on its optimizer \(ZeroDivisionError: div"),
        (lambda: None, r"schedulers\['a'\] must be a function f\(optimizer\)"),
        (nn.Linear(1, 1), r"schedulers\['a'\] "),
    ],
)
def test_what_cannot_be_advanced_is_refused_when_it_is_made(scheduler, message):
    with pytest.raises(OptimizerError, match=message):
        make({"a": scheduler})


def test_all_entries_are_reported_at_once_and_optimizers_are_as_before():
    net = nn.Linear(2, 1)
    optimizer = SGD(net.parameters(), lr=1.0)
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(OptimizerError, match=r"2 problems:\n  - schedulers\['c'\].*\n  - schedulers\['b'\]"):
        Joint(
            models={"net": net, "other": (other := nn.Linear(2, 1))},
            losses=lambda m, x: {},
            optimizers={"a": optimizer, "b": SGD(other.parameters(), lr=1.0)},
            schedulers={"a": partial(OneCycleLR, max_lr=3.0, total_steps=9), "b": ByLoss, "c": ByEpoch},
        )
    assert optimizer.state_dict() == before


# -- failures --------------------------------------------------------------------------------------------------------


def test_a_scheduler_that_fails_says_who_had_stepped_and_who_else_failed():
    joint = make({"a": Fails, "b": Fails})
    with pytest.raises(PartialStepError) as caught:
        joint.step(X)
    assert "the scheduler of optimizer 'a' failed after the step (ZeroDivisionError: no more epochs)" in str(
        caught.value
    )
    assert "'a', 'b' had already stepped" in str(caught.value)
    assert caught.value.stepped == ("a", "b")
    assert "the scheduler of optimizer 'b' failed" in caught.value.__notes__[0]


def test_optimizers_without_a_scheduler_are_among_those_that_had_stepped():
    joint = make({"b": Fails}, phases=alternate("a", "b"))
    with pytest.raises(PartialStepError, match="'a', 'b' had already stepped"):
        joint.step(X)


def test_at_the_end_of_an_epoch_one_that_fails_stops_no_other():
    joint = make({"a": EachEpoch(Fails), "b": EachEpoch(ByEpoch)})
    joint.step(X)
    with pytest.raises(PartialStepError, match="the scheduler of optimizer 'a' failed"):
        joint.end_epoch()
    assert rates(joint) == {"a": 1.0, "b": 0.5}


# -- learning rates that are not numbers -----------------------------------------------------------------------------


class Own(SGD):
    """An optimizer that finds its own rate, as Adafactor with relative steps: ``lr`` is None."""

    def __init__(self, parameters):
        super().__init__([{"params": [p], "lr": 0.1} for p in parameters])
        self.param_groups[0]["lr"] = None

    def step(self, closure=None):
        pass


def test_a_rate_that_is_none_is_not_logged_and_one_that_is_a_tensor_is_a_number():
    models = {"a": nn.Linear(2, 2), "b": nn.Linear(2, 1), "c": nn.Linear(2, 1)}

    def none(parameters):
        optimizer = Own(parameters)
        optimizer.param_groups[1]["lr"] = None
        return optimizer

    joint = Joint(
        models=models,
        losses=lambda m, x: {"size": (m.b(m.a(x)) + m.c(x)).square().mean()},
        optimizers={"a": Own, "b": none, "c": lambda ps: torch.optim.Adam(ps, lr=torch.tensor(0.5))},
    )
    history = cograd.fit(joint, [X, X], epochs=1, log_every=1, progress=False)
    logged = {name: history[name].last for name in history if name.startswith("lr/")}
    assert logged == pytest.approx({"lr/a": 0.1, "lr/c": 0.5})
