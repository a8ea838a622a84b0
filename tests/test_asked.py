"""A changed script is told what a state goes on with; an unchanged one is told nothing, whatever moved the rates."""

import io
import warnings
from functools import partial

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import CosineAnnealingLR, CyclicLR, LinearLR, OneCycleLR, SequentialLR

import cograd
from cograd import EachEpoch, Joint

X = torch.ones(3, 2)


def make(optimizers=partial(SGD, lr=0.1), losses=("size",), **options):  # noqa: B008
    torch.manual_seed(0)
    return Joint(
        models={"net": nn.Linear(2, 1)},
        losses=lambda m, x: {name: m.net(x).square().mean() for name in losses},
        optimizers=optimizers,
        **options,
    )


def saved(joint):
    file = io.BytesIO()
    torch.save(joint.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def warned(joint, state):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        joint.load_state_dict(state)
    return [str(warning.message) for warning in found]


def groups(a, b):
    return lambda ps: SGD([{"params": [p], "lr": lr} for p, lr in zip(ps, (a, b), strict=True)])


CHANGES = {
    "a rate": (
        {"optimizers": partial(SGD, lr=0.1)},
        {"optimizers": partial(SGD, lr=0.2)},
        [
            "optimizer 'net' was made with lr=0.1 where the state was taken, and with lr=0.2 here: that of "
            "the state goes on"
        ],
    ),
    "a rate that is a tensor": (
        {"optimizers": partial(Adam, lr=torch.tensor(0.5))},
        {"optimizers": partial(Adam, lr=torch.tensor(0.25))},
        ["optimizer 'net' was made with lr=0.5 where the state was taken, and with lr=0.25 here"],
    ),
    "several settings": (
        {"optimizers": partial(Adam, lr=0.1)},
        {"optimizers": partial(Adam, lr=0.1, betas=(0.5, 0.9), weight_decay=0.1)},
        ["betas=(0.9, 0.999) where the state was taken, and with betas=(0.5, 0.9) here", "with weight_decay=0 where"],
    ),
    "of one group": (
        {"optimizers": groups(0.1, 0.2)},
        {"optimizers": groups(0.1, 0.3)},
        ["optimizer 'net', group 1 was made with lr=0.2 where the state was taken, and with lr=0.3 here"],
    ),
    "under a scheduler": (
        {"schedulers": partial(CosineAnnealingLR, T_max=9)},
        {"optimizers": partial(SGD, lr=0.2), "schedulers": partial(CosineAnnealingLR, T_max=9)},
        ["optimizer 'net' was made with lr=0.1 where the state was taken, and with lr=0.2 here"],
    ),
    "of a scheduler": (
        {"schedulers": partial(CosineAnnealingLR, T_max=9)},
        {"schedulers": partial(CosineAnnealingLR, T_max=20)},
        ["the scheduler of optimizer 'net' was made with T_max=9 where the state was taken, and with T_max=20 here"],
    ),
    "of a scheduler inside another": (
        {"schedulers": lambda o: SequentialLR(o, [LinearLR(o), CosineAnnealingLR(o, 9)], [2])},
        {"schedulers": lambda o: SequentialLR(o, [LinearLR(o), CosineAnnealingLR(o, 20)], [2])},
        [
            "the scheduler of optimizer 'net' was made with 1.T_max=9 where the state was taken, and with 1.T_max="
            "20 here"
        ],
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_setting_is_told_once_and_that_of_the_state_goes_on(change):
    before, after, words = CHANGES[change]
    first, second = make(**before), make(**after)
    first.step(X)
    state = saved(first)
    told = warned(second, state)
    assert len(told) == len(words)
    for line, word in zip(told, words, strict=True):
        assert word in line
    group, other = (j.optimizers["net"].param_groups[-1] for j in (first, second))
    assert (group["lr"], group.get("betas")) == (other["lr"], other.get("betas"))
    again = make(**before)
    assert warned(again, saved(second)) == []  # what goes on is what the first script asked for
    assert len(warned(make(**after), saved(second))) == len(words)


UNCHANGED = {
    "plain": {},
    "cosine": {"schedulers": partial(CosineAnnealingLR, T_max=9)},
    "one cycle": {"optimizers": partial(Adam, lr=0.1), "schedulers": partial(OneCycleLR, max_lr=0.3, total_steps=9)},
    "momentum in cycles": {
        "optimizers": partial(SGD, lr=0.1, momentum=0.9),
        "schedulers": partial(CyclicLR, base_lr=0.1, max_lr=0.3),
    },
    "epochs": {"schedulers": EachEpoch(partial(LinearLR, start_factor=0.5))},
    "a tensor": {
        "optimizers": lambda ps: Adam(ps, lr=torch.tensor(0.5)),
        "schedulers": partial(CosineAnnealingLR, T_max=9),
    },
}


@pytest.mark.parametrize("options", UNCHANGED)
def test_a_script_that_has_not_changed_is_told_nothing(options):
    options = UNCHANGED[options]
    joint = make(**options)
    for _ in range(4):
        joint.step(X)
    joint.end_epoch()
    joint.optimizers["net"].param_groups[0]["weight_decay"] = 0.5  # as a callback does it
    for _ in range(2):
        state = saved(joint)
        joint = make(**options)
        assert warned(joint, state) == []
        assert joint.optimizers["net"].param_groups[0]["weight_decay"] == 0.5


def test_the_warning_is_of_the_line_that_loads():
    first, second = make(), make(partial(SGD, lr=0.2))
    with pytest.warns(UserWarning, match="lr=0.1 where the state") as caught:
        second.load_state_dict(saved(first))
    assert caught[0].filename == __file__


def test_a_new_loss_is_told_at_the_first_step():
    first, second = make(), make(losses=("size", "also"))
    first.step(X)
    assert warned(second, saved(first)) == []
    with pytest.warns(UserWarning, match="returns 'also'; the state that was loaded has 'size'.*begins anew"):
        second.step(X)
    second.step(X)


@pytest.mark.parametrize("missing", ["warn", "allow"])
def test_a_renamed_loss_is_told_once(missing):
    first, second = make(), make(losses=("sice",), missing=missing)
    first.step(X)
    second.load_state_dict(saved(first))
    with pytest.warns(UserWarning, match="'sice'") as caught:
        second.step(X)
    assert len(caught) == 1


def test_fit_tells_it_too(tmp_path):
    cograd.fit(make(), [X, X], epochs=1, run_dir=tmp_path, progress=False)
    with pytest.warns(UserWarning, match="lr=0.1 where the state was taken, and with lr=0.2 here"):
        cograd.fit(make(partial(SGD, lr=0.2)), [X, X], epochs=2, run_dir=tmp_path, progress=False)
    cograd.fit(make(), [X, X], epochs=3, run_dir=tmp_path, progress=False)
