"""Whatever is wrong with a call of fit, it is a CogradError that says what, and nothing has changed."""

import copy
import re
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import cograd
from cograd._whereabouts import described
from cograd.errors import BatchError, CogradError, TrainingError

X = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))


def make():
    torch.manual_seed(0)
    return cograd.Joint(
        models={"net": nn.Linear(2, 1)},
        losses=lambda m, x: {"size": m.net(x).square().mean()},
        optimizers=torch.optim.SGD,
    )


class NoBatches:
    """It cannot be iterated."""


# what is none of: a whole number of at least 1, text, a path, a mapping, a function, a criterion
things = st.sampled_from([object(), 1.5, float("nan"), -1, 0, b"bytes", torch.ones(2), np.ones(2), 3 + 1j, int, ...])
counts = (
    things | st.integers(max_value=0) | st.floats() | st.booleans() | st.text() | st.lists(st.integers(), max_size=2)
)
functions = st.sampled_from([3, "f", None, [3], {"f": 1}, torch.ones(1)])
words = st.text(max_size=8)

BAD = {
    "epochs": counts,
    "steps": counts,
    "validate": st.sampled_from(
        [3, 1.5, "", "text", [], (), {}, {"a": 1}, iter([1]), int, NoBatches(), TensorDataset(X)]
    ),
    "validate_every": counts.filter(lambda v: not (isinstance(v, str) and v == "epoch")) | st.none(),
    "stop": things | words | functions.filter(lambda v: v is not None) | st.integers(),
    "freeze": things
    | st.dictionaries(words, st.just(cograd.MaxSteps(1)), min_size=1).filter(lambda d: "net" not in d)
    | st.sampled_from([{"net": 3}, {"net": None}, {3: cograd.MaxSteps(1)}, [("net", cograd.MaxSteps(1))]]),
    "run_dir": st.sampled_from([3, 1.5, b"x", "", "a\0b", __file__, object(), ["a"], True]),
    "resume": st.sampled_from([3, None, True, "", "perhaps", "a\0b", "must", "nowhere/step.pt", object(), b"auto"]),
    "save_every": counts.filter(lambda v: not (isinstance(v, str) and v == "epoch")),
    "keep": counts | st.none(),
    "best": things
    | st.sampled_from(["", "size", "loss/size", "val/size", ("val/size", "up"), ("a", "b", "c"), [], {}]),
    "loggers": things | st.sampled_from([None, "csv", ["csv"], [None], [int], {"csv": 1}, print, [object()]]),
    "log_every": counts | st.none(),
    "progress": st.sampled_from([None, 1, 0, "yes", [], object(), torch.ones(2)]),
    "on": things
    | words.filter(bool)
    | st.dictionaries(words, st.just(print), min_size=1)
    | st.dictionaries(st.sampled_from(["step", "epoch", "finish"]), functions, min_size=1),
    "device": st.sampled_from([object(), "cuda:x", "nowhere", "meta", 1.5, ["cpu"], "", torch.ones(1)]),
    "non_finite": things | words | st.none(),
}
LOADERS = st.sampled_from(
    [
        None,
        3,
        1.5,
        "text",
        b"bytes",
        {},
        {"a": [X]},
        [],
        (),
        int,
        object(),
        TensorDataset(X),
        DataLoader([]),
        NoBatches(),
        make,
    ]
)


def everything(joint):
    return copy.deepcopy(joint.state_dict()), torch.get_rng_state()


@st.composite
def calls(draw):
    """Good arguments, of which some are replaced by bad ones."""
    names = draw(st.lists(st.sampled_from([*BAD, "loader"]), min_size=1, max_size=4, unique=True))
    named = {"epochs": 1, "progress": False} | {name: draw(BAD[name]) for name in names if name != "loader"}
    return draw(LOADERS) if "loader" in names else [X], named


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)
@given(calls())
def test_malformed_calls(tmp_path_factory, same, call):
    loader, named = call
    folder = tmp_path_factory.getbasetemp()
    before_files = set(folder.rglob("*"))
    joint = make()
    before = everything(joint)
    with pytest.raises(CogradError) as caught:
        cograd.fit(joint, loader, **named)
    message = str(caught.value)
    assert len(message) > 30
    assert message.endswith((".", "?", "'", "}", ")", "]")) or "found" in message
    same(before, everything(joint))
    assert set(folder.rglob("*")) == before_files


@pytest.mark.parametrize("name", [*BAD, "loader"])
def test_the_message_names_the_argument(name):
    @settings(max_examples=25, deadline=None, derandomize=True)
    @given(LOADERS if name == "loader" else BAD[name])
    def check(value):
        options = {"epochs": 1, "progress": False} | ({} if name == "loader" else {name: value})
        with pytest.raises(CogradError, match=name):
            cograd.fit(make(), value if name == "loader" else [X], **options)

    check()


@pytest.mark.parametrize("joint", [None, 3, nn.Linear(1, 1), {"net": nn.Linear(1, 1)}, cograd.Joint, "joint"])
def test_what_is_no_joint(joint):
    with pytest.raises(TrainingError, match=r"fit trains a cograd.Joint"):
        cograd.fit(joint, [X], epochs=1)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.one_of(
        st.tuples(st.just(cograd.Plateau), st.fixed_dictionaries({"metric": things | st.just("")})),
        st.tuples(st.just(cograd.Plateau), st.fixed_dictionaries({"metric": st.just("val/a"), "patience": counts})),
        st.tuples(
            st.just(cograd.Plateau),
            st.fixed_dictionaries({"metric": st.just("val/a"), "min_delta": st.floats(max_value=-1e-9) | words}),
        ),
        st.tuples(st.just(cograd.MaxSteps), st.fixed_dictionaries({"n": counts | st.none()})),
        st.tuples(
            st.just(cograd.TimeLimit),
            st.fixed_dictionaries({"seconds": st.floats(max_value=0) | words | st.just(timedelta(0)) | st.booleans()}),
        ),
        st.tuples(
            st.just(cograd.Target), st.fixed_dictionaries({"metric": st.just("val/a"), "value": words | st.none()})
        ),
    ).filter(lambda made: not str(made[1].get("seconds", "")).strip()[:1].isdigit())
)
def test_malformed_criteria(made):
    kind, arguments = made
    with pytest.raises(TrainingError, match=kind.__name__):
        kind(**arguments)


# -- batches ---------------------------------------------------------------------------------------------------------

numbers = st.sampled_from([torch.float32, torch.float64, torch.float16, torch.int64, torch.bool, torch.complex64])
tensors = st.builds(
    lambda shape, kind: torch.zeros(shape, dtype=kind), st.lists(st.integers(0, 3), max_size=3), numbers
)
parts = tensors | st.none() | st.integers(-1, 2) | st.text(max_size=2) | st.just(np.zeros(2)) | st.builds(object)
batches = st.recursive(
    parts, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=2), max_leaves=4
)


def takes(batch):
    """Would the losses of ``make`` take it?"""
    return isinstance(batch, torch.Tensor) and batch.dtype == torch.float32 and batch.ndim and batch.shape[-1] == 2


@settings(max_examples=150, deadline=None, derandomize=True)
@given(batches.filter(lambda batch: not takes(batch)), st.booleans())
def test_malformed_batches(same, batch, validating):
    joint = make()
    before = everything(joint)
    options = {"validate": [batch], "validate_every": 1} if validating else {}
    with pytest.raises(CogradError) as caught:
        cograd.fit(joint, [X if validating else batch], epochs=1, progress=False, **options)
    error = caught.value
    told = str(error) + "".join(getattr(error, "__notes__", ()))
    assert described(batch) in told
    assert ("batch 1 of the validation" if validating else "step 1, in epoch 1") in told
    if not validating:
        same(before, everything(joint))


def test_a_bad_batch_names_what_is_in_it_and_keeps_the_cause():
    with pytest.raises(
        BatchError, match=r"in step 2, in epoch 1; the batch is float32 \[8, 3\]\. RuntimeError: mat1"
    ) as e:
        cograd.fit(make(), [X, torch.zeros(8, 3)], epochs=1, progress=False)
    assert type(e.value.__cause__) is RuntimeError


class OwnError(Exception):
    pass


def test_errors_of_your_own_keep_their_type():
    def losses(m, x):
        raise OwnError("mine")

    joint = cograd.Joint(models={"net": nn.Linear(2, 1)}, losses=losses, optimizers=torch.optim.SGD)
    with pytest.raises(OwnError, match="mine") as caught:
        cograd.fit(joint, [X], epochs=1, progress=False)
    assert len(caught.value.__notes__) == 3
    assert re.fullmatch(
        r"This was in the phase 'update net', at test_malformed.py:\d+: raise OwnError\(\"mine\"\).",
        caught.value.__notes__[0],
    )
    assert caught.value.__notes__[1:] == ["The batch is float32 [8, 2].", "This was in step 1, in epoch 1."]


class Counts:
    def __init__(self, fails=""):
        self.fails = fails

    def reset(self):
        pass

    def update(self, prediction):
        pass

    def compute(self):
        return len(self.fails) / 0


@pytest.mark.parametrize(
    ("predict", "error", "says"),
    [
        (
            lambda m, x: (x, x),
            BatchError,
            r"metrics\['count'\].update\(float32 \[8, 2\], float32 \[8, 2\]\) fails in batch 1 of",
        ),
        (
            lambda m, x: x @ x,
            BatchError,
            r"predict fails in batch 1 of the validation; the batch is float32 \[8, 2\]. Runt",
        ),
        (lambda m, x: (x,), ZeroDivisionError, r"This was in metrics\['count'\].compute\(\), after 1 batches"),
        (lambda x: (x,), TrainingError, r"predict must be a function predict\(models, batch\); found <lambda>\(x\)"),
    ],
)
def test_a_validation_says_which_of_its_parts_fails(predict, error, says):
    with pytest.raises(error) as caught:
        cograd.fit(
            make(),
            [X],
            epochs=1,
            validate=cograd.Validation([X], predict=predict, metrics={"count": Counts()}),
            progress=False,
        )
    told = "".join([str(caught.value), *getattr(caught.value, "__notes__", ())])
    assert re.search(says, told), told
    assert "losses cannot be computed" not in told


@dataclass
class Pair:
    left: torch.Tensor
    right: object


@pytest.mark.parametrize(
    ("batch", "text"),
    [
        (torch.zeros(2, 3), "float32 [2, 3]"),
        ([torch.zeros(2).long()] * 8, "[" + "int64 [2], " * 6 + "2 more]"),
        (Pair(torch.zeros(1), object()), "(left=float32 [1], right=of type object)"),
        ([[[[[1]]]]], "[[[[...]]]]"),
        ({}, "{}"),
        ("text", "of type str"),
        (True, "True"),
    ],
)
def test_what_is_said_of_a_batch(batch, text):
    assert described(batch) == text
