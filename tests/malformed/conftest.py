"""A good call of everything public, in which the tests replace one argument by something that is none."""

import inspect
import tempfile
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import StepLR

import cograd
from cograd import EMA, Copy, EachEpoch, Joint, MaxSteps, Phase, Plateau, Target, TimeLimit, Validation
from cograd.gramian import At, Rows
from cograd.training import loggers
from cograd.weighting import FirstValue, LRAnnealing, Stateful, UPGrad, Weighting

AS_GOOD = tomllib.loads(Path(__file__).with_name("as_good.toml").read_text())
X = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))


def models():
    torch.manual_seed(0)
    return {"gen": nn.Linear(2, 2), "disc": nn.Linear(2, 1)}


def losses(m, x):
    return {"fool": m.disc(m.gen(x)).square().mean(), "judge": m.disc(x).square().mean()}


def optimizers(models):
    return {name: SGD(model.parameters(), 0.1) for name, model in models.items()}


def joint(**options):
    own = models()
    return Joint(**{"models": own, "losses": losses, "optimizers": optimizers(own)} | options)


class Accuracy:
    def reset(self):
        self.seen = 0

    def update(self, output):
        self.seen += len(output)

    def compute(self):
        return float(self.seen)


def nothing(made):
    """To have been made, or to have returned, is all that it does."""


@dataclass
class Good:
    """A call that works.

    Attributes:
        call: takes the arguments by keyword, those under ``"*"`` by position.
        arguments: makes them, new each time.
        use: what is done with what was returned, to see whether it works.
        name: in ``GOOD``.
    """

    call: Callable[..., Any]
    arguments: Callable[[], dict[str, Any]]
    use: Callable[[Any], Any] = nothing
    name: str = ""

    def takes(self, keyword, kind):
        """Is such a value as good, by the table that is kept of them?"""
        return not {kind, "anything"}.isdisjoint(AS_GOOD.get(f"{self.name}.{keyword}", ()))

    def make(self, arguments):
        named = dict(arguments)
        return self.call(*named.pop("*", ()), **named)

    def __call__(self, arguments):
        return self.use(self.make(arguments))


def method(name):
    """A method of the object under ``"self"``."""
    return lambda *args, self, **named: getattr(self, name)(*args, **named)


def steps(made):
    for _ in range(2):
        made.step(X)
    made.end_epoch()
    assert all(p.isfinite().all() for name in made.models for p in made.models[name].parameters())


def rule(made):
    """Let a Joint use it, and call it."""
    joint(weighting=made).step(X)
    size = torch.ones(2)
    made(
        **{
            what: {"losses": size, "gramian": torch.eye(2), "abs": torch.ones(2, 2)}[what]
            for what in made.needs & {"losses", "gramian", "abs"}
        },
        present=[True, True],
    )


def joint_arguments():
    own = models()
    return {
        "models": own,
        "losses": losses,
        "optimizers": optimizers(own),
        "trains": {"fool": ["gen", "disc"], "judge": "disc"},
        "weights": {"fool": 0.5},
        "weighting": UPGrad(),
        "phases": [Phase(("gen", "disc"))],
        "check": "now",
        "grad_norms": True,
        "freeze_buffers": True,
        "gramian": Rows(),
        "refresh": 2,
        "watch": 1,
        "clip": {"gen": 1.0},
        "accumulate": {"disc": 2},
        "schedulers": {"gen": partial(StepLR, step_size=1)},
        "followers": {"mean": EMA("gen")},
        "precision": "bf16",
        "missing": "raise",
        "prepare": lambda models, batch: batch,
    }


def drop_in():
    own = models()
    return {
        "losses": losses(cograd.Models(own), X),
        "models": own,
        "trains": {"fool": ["gen", "disc"], "judge": "disc"},
        "weights": {"fool": 0.5},
        "weighting": UPGrad(),
        "gramian": Rows(),
        "retain_graph": True,
        "create_graph": False,
    }


def fit_arguments():
    return {
        "joint": joint(),
        "loader": [X, X],
        "epochs": 1,
        "steps": 3,
        "validate": [X],
        "validate_every": 1,
        "stop": MaxSteps(5),
        "freeze": {"gen": MaxSteps(100)},
        "run_dir": tempfile.mkdtemp(dir="."),
        "resume": "auto",
        "save_every": 100,
        "keep": 2,
        "best": ("val/fool", "min"),
        "loggers": [loggers.CSV()],
        "log_every": 1,
        "progress": False,
        "on": {"step": [nothing]},
        "device": "cpu",
        "non_finite": "raise",
    }


def validation():
    return {
        "loader": [X],
        "predict": lambda models, batch: (models.gen(batch),),
        "metrics": {"seen": Accuracy()},
        "losses": True,
        "mode": "train",
    }


def checkpoints():
    return cograd.training.Checkpoints(tempfile.mkdtemp(dir="."), best="fool")


def save(self, **arguments):
    with self:
        return self.save(**arguments)


def history():
    return cograd.fit(joint(), [X], epochs=1, progress=False)


def at(made):
    joint(
        losses=lambda m, x: {"a": m.disc(m.gen(x)).sum(), "b": m.disc(m.gen(x)).square().sum()},
        weighting=UPGrad(),
        gramian=made,
    ).step(X)


def logged(made):
    joint(losses=lambda m, x: losses(m, x) | {"seen": made}).step(X)


def recorded(made):
    with made:
        pass


FACTORS = {"fool": 1.0}
RULES = {  # where the default is none
    "DWA": {"window": 2},
    "DualProj": {"preference": FACTORS},
    "UPGrad": {"preference": FACTORS},
    "SmoothTchebycheff": {"preference": FACTORS, "reference": {"fool": 0.0}},
    "FAMO": {"bounds": {"fool": 0.0}},
    "Fixed": {"weights": FACTORS},
    "FromGramian": {"function": lambda gramian: torch.ones(len(gramian))},
    "FromJacobian": {"aggregator": lambda jacobian: jacobian.mean(0)},
    "LRAnnealing": {"reference": "fool"},
    "Scheduled": {"schedules": {"fool": lambda step: 1.0}},
    "Uncertainty": {"kind": {"fool": "regression"}},
} | {name: {"seed": 0} for name in ("GradVac", "PCGrad", "Random", "ReLoBRaLo")}


def of_rule(kind):
    plain = {
        n: p.default for n, p in inspect.signature(kind).parameters.items() if isinstance(p.default, int | float | str)
    }
    return Good(kind, lambda: plain | RULES.get(kind.__name__, {}), rule)


GOOD: dict[str, Good] = {
    kind.__name__: of_rule(kind)
    for kind in vars(cograd.weighting).values()
    if isinstance(kind, type) and issubclass(kind, Weighting) and not inspect.isabstract(kind)
}
GOOD |= {
    "Joint": Good(Joint, joint_arguments, steps),
    "Joint.step": Good(method("step"), lambda: {"self": joint(), "batch": X}),
    "Joint.evaluate": Good(method("evaluate"), lambda: {"self": joint(), "batch": X, "mode": "train"}),
    "Joint.to": Good(method("to"), lambda: {"self": joint(), "device": "cpu"}),
    "Joint.plan": Good(method("plan"), lambda: {"self": joint(), "batch": X}),
    "Joint.freeze": Good(method("freeze"), lambda: {"self": joint(), "*": ["gen"]}),
    "Joint.end_epoch": Good(
        method("end_epoch"),
        lambda: {
            "self": joint(
                schedulers=EachEpoch(torch.optim.lr_scheduler.ReduceLROnPlateau, metric="val/fool"),
            ),
            "metrics": {"val/fool": 1.0},
        },
    ),
    "Joint.load_state_dict": Good(method("load_state_dict"), lambda: {"self": joint(), "state": joint().state_dict()}),
    "Stateful": Good(
        Stateful,
        lambda: {"rule": UPGrad(), "refresh": 2},
        lambda made: cograd.backward(drop_in()["losses"], weighting=made),
    ),
    "Stateful.load_state_dict": Good(
        method("load_state_dict"),
        lambda: {"self": Stateful(FirstValue()), "state": Stateful(FirstValue()).state_dict()},
    ),
    "Weighting.__call__": Good(
        method("__call__"),
        lambda: {
            "self": LRAnnealing("loss0"),
            "losses": torch.ones(2),
            "gramian": torch.eye(2),
            "present": [True, True],
            "abs": torch.ones(2, 2),
        },
    ),
    "Weighting.__call__ of losses": Good(
        method("__call__"), lambda: {"self": FirstValue(), "losses": torch.ones(2), "present": [True, True]}
    ),
    "Weighting.__call__ of a Gramian": Good(
        method("__call__"), lambda: {"self": UPGrad(), "gramian": torch.eye(2), "present": [True, True]}
    ),
    "Mean": Good(
        cograd.Mean,
        lambda: {"value": torch.ones((), requires_grad=True), "count": 2},
        lambda made: cograd.backward({"size": made}),
    ),
    "Metric": Good(cograd.Metric, lambda: {"value": 0.5, "count": 2}, logged),
    "At": Good(At, lambda: {"where": "gen"}, at),
    "backward": Good(cograd.backward, drop_in),
    "grad": Good(cograd.grad, drop_in),
    "explain": Good(
        cograd.explain, lambda: {"losses": losses, "batch": X, "models": models(), "trains": {"judge": "disc"}}, str
    ),
    "explain of a joint": Good(cograd.explain, lambda: {"losses": joint(), "batch": X}, str),
    "record": Good(cograd.record, lambda: {"models": models()}, recorded),
    "Phase": Good(
        Phase,
        lambda: {
            "models": ["gen", "disc"],
            "every": 2,
            "repeat": 1,
            "start": 0,
            "stop": 10,
            "losses": ["fool", "judge"],
            "weighting": UPGrad(),
            "offset": 0,
            "optimizers": ["gen", "disc"],
            "defer": (),
        },
        lambda made: steps(joint(phases=made)),
    ),
    "alternate": Good(
        cograd.alternate,
        lambda: {"*": ["gen", "disc"], "every": {"gen": 2}, "repeat": {"disc": 2}, "offset": {"gen": 0}},
        lambda made: steps(joint(phases=made)),
    ),
    "together": Good(cograd.together, lambda: {"*": ["gen", "disc"]}, lambda made: steps(joint(phases=made))),
    "EMA": Good(
        EMA,
        lambda: {"of": "gen", "decay": 0.9, "every": 1, "copy": nn.Linear(2, 2)},
        lambda made: steps(joint(followers={"mean": made})),
    ),
    "Copy": Good(
        Copy,
        lambda: {"of": "gen", "every": 1, "copy": nn.Linear(2, 2)},
        lambda made: steps(joint(followers={"copy": made})),
    ),
    "Clip": Good(cograd.Clip, lambda: {"norm": 1.0, "kind": 2.0}, lambda made: steps(joint(clip=made))),
    "Clip of values": Good(cograd.Clip, lambda: {"value": 1.0}, lambda made: steps(joint(clip=made))),
    "Fp16": Good(
        cograd.Fp16,
        lambda: {"skip": "all", "scale": 1024.0, "growth": 10},
        lambda made: steps(joint(precision=made)),
    ),
    "EachEpoch": Good(
        EachEpoch,
        lambda: {"scheduler": torch.optim.lr_scheduler.ReduceLROnPlateau, "metric": "val/fool"},
        lambda made: joint(schedulers=made).end_epoch({"val/fool": 1.0}),
    ),
    "fit": Good(cograd.fit, fit_arguments),
    "Validation": Good(
        Validation, validation, lambda made: cograd.fit(joint(), [X], epochs=1, validate=made, progress=False)
    ),
    "Validation.__call__": Good(
        method("__call__"),
        lambda: {"self": Validation(**validation()), "joint": joint(), "device": torch.device("cpu")},
    ),
    "zip_loaders": Good(cograd.zip_loaders, lambda: {"mode": "cycle", "loaders": [X], "second": [X]}, list),
    "Plateau": Good(
        Plateau,
        lambda: {"metric": "val/fool", "patience": 1, "higher_is_better": True, "min_delta": 0.0},
        lambda made: cograd.fit(joint(), [X], epochs=2, validate=[X], stop=made, progress=False),
    ),
    "Target": Good(
        Target,
        lambda: {"metric": "val/fool", "value": 0.1, "higher_is_better": False},
        lambda made: cograd.fit(joint(), [X], epochs=1, validate=[X], stop=made, progress=False),
    ),
    "TimeLimit": Good(
        TimeLimit, lambda: {"seconds": "2h"}, lambda made: cograd.fit(joint(), [X], epochs=1, stop=made, progress=False)
    ),
    "MaxSteps": Good(MaxSteps, lambda: {"n": 3}, lambda made: cograd.fit(joint(), [X], stop=made, progress=False)),
    "AnyOf": Good(
        cograd.training.AnyOf,
        lambda: {"parts": (MaxSteps(1), TimeLimit(9.0))},
        lambda made: cograd.fit(joint(), [X], stop=made, progress=False),
    ),
    "Plateau.load_state_dict": Good(
        method("load_state_dict"), lambda: {"self": Plateau("val/a"), "state": Plateau("val/a").state_dict()}
    ),
    "AnyOf.load_state_dict": Good(
        method("load_state_dict"),
        lambda: {"self": MaxSteps(1) | Plateau("val/a"), "state": (MaxSteps(1) | Plateau("val/a")).state_dict()},
    ),
    "Criterion.load_state_dict": Good(method("load_state_dict"), lambda: {"self": MaxSteps(1), "state": {}}),
    "History.__getitem__": Good(method("__getitem__"), lambda: {"self": history(), "name": "loss/fool"}),
    "History.load_state_dict": Good(
        method("load_state_dict"), lambda: {"self": cograd.History(), "state": history().state_dict()}
    ),
    "Batches": Good(cograd.training.Batches, lambda: {"loader": [X], "device": "cpu", "name": "the loader"}, list),
    "Batches.load_state_dict": Good(
        method("load_state_dict"),
        lambda: {"self": cograd.training.Batches([X]), "state": cograd.training.Batches([X]).state_dict()},
    ),
    "Checkpoints": Good(
        cograd.training.Checkpoints,
        lambda: {"folder": tempfile.mkdtemp(dir="."), "keep": 1, "best": "fool", "higher_is_better": True},
        lambda made: save(made, state={}, step=1, values={"fool": 1.0}),
    ),
    "Checkpoints.save": Good(
        save, lambda: {"self": checkpoints(), "state": {"x": X}, "step": 1, "values": {"fool": 1.0}}
    ),
    "Run.stop": Good(method("stop"), lambda: {"self": cograd.training.Run(joint()), "why": "enough"}),
    "export": Good(
        cograd.training.export,
        lambda: {"model": nn.Linear(1, 1), "path": str(Path(tempfile.mkdtemp(dir="."), "gen.safetensors"))},
    ),
    "move": Good(cograd.training.move, lambda: {"batch": {"x": X}, "device": "cpu", "non_blocking": True}),
    "set_world_state": Good(cograd.training.set_world_state, lambda: {"state": cograd.training.world_state()}),
    "TensorBoard": Good(loggers.TensorBoard, lambda: {"folder": tempfile.mkdtemp(dir=".")}),
    "MLflow": Good(
        loggers.MLflow,
        lambda: {"experiment": "a", "run_name": "b", "tracking_uri": "http://localhost:5000", "tags": {"c": "d"}},
    ),
}
for name, good in GOOD.items():
    good.name = name


def pytest_generate_tests(metafunc):
    if "good_call" in metafunc.fixturenames:
        metafunc.parametrize("good_call", GOOD.values(), ids=list(GOOD))


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """What is written, is written there."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def good_calls():
    return GOOD
