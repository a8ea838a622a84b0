"""What users with a strict type checker write: mypy and pyright find nothing to say (``make check``), and it runs."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler

import cograd
from cograd import errors, training, weighting


class Coder(nn.Module):
    """A model with methods of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 2)
        self.outer = nn.Linear(2, 4)

    def encode(self, x: Tensor) -> Tensor:
        code: Tensor = self.inner(x)
        return code

    def forward(self, x: Tensor) -> Tensor:
        back: Tensor = self.outer(self.encode(x))
        return back


class Nets(Protocol):
    """The models of one joint, for who wants to be told of each."""

    coder: Coder
    head: nn.Linear


def by_name(m: cograd.Models, batch: Tensor) -> cograd.Losses:
    code = m.coder.encode(batch)  # what only this model has
    return {"code": (m.coder(batch) - batch).square().mean(), "head": lambda: m["head"](code).mean(), "absent": None}


def as_a_dict(m: cograd.Models, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    x, y = batch
    return {"code": (m.coder(x) - x).square().mean(), "head": (m.head(m.coder.encode(x)) - y).square().mean()}


def maybe(m: cograd.Models, batch: Tensor) -> dict[str, Tensor | None]:
    return {"code": m.coder(batch).mean() if len(batch) > 1 else None}


def lazily(m: cograd.Models, batch: Tensor) -> dict[str, Callable[[], Tensor]]:
    return {"code": lambda: m.coder(batch).mean()}


def told(m: Nets, batch: Tensor) -> Mapping[str, Tensor]:
    return {"head": m.head(m.coder.encode(batch)).mean() + m.head.weight.sum()}


def prepare(m: cograd.Models, batch: Tensor) -> tuple[Tensor, Tensor]:
    return batch, torch.randn(len(batch), 1)


def of_parameters(parameters: Iterable[nn.Parameter]) -> Optimizer:
    return Adam(parameters, lr=1e-3)


def of_tensors(parameters: list[Tensor]) -> SGD:
    return SGD(parameters, lr=1e-2)


def cosine(optimizer: Optimizer) -> LRScheduler:
    return CosineAnnealingLR(optimizer, 10)


def build() -> cograd.Joint:
    models: dict[str, nn.Module] = {"coder": Coder(), "head": nn.Linear(2, 1)}
    clip = {"coder": 1.0}
    weights = {"head": 1}
    trains = {"code": "coder", "head": ["coder", "head"]}
    counts = {"coder": 2}
    optimizers = {"coder": Adam(models["coder"].parameters()), "head": SGD(models["head"].parameters(), lr=0.1)}
    return cograd.Joint(
        models=models,
        losses=by_name,
        trains=trains,
        optimizers=optimizers,
        weights=weights,
        weighting=weighting.UPGrad(),
        phases=[*cograd.alternate("coder", "head", every={"head": 2}), cograd.Phase(("coder", "head"), start=100)],
        clip=clip,
        accumulate=counts,
        schedulers={"coder": cosine, "head": cograd.EachEpoch(cosine)},
        followers={"slow": cograd.EMA("coder"), "late": cograd.Copy("head", every=10)},
        precision="bf16",
        grad_norms=True,
    )


def test_declarations() -> None:
    models = {"coder": Coder(), "head": nn.Linear(2, 1)}
    together = {("coder", "head"): 1.0}
    for losses in (as_a_dict, maybe, lazily):
        cograd.Joint(models=nn.ModuleDict(models), losses=losses, optimizers=of_parameters, schedulers=cosine)
    cograd.Joint(models=models, losses=told, optimizers=of_tensors, clip=together)
    cograd.Joint(models=models, losses=by_name, optimizers=partial(Adam, lr=1e-3), prepare=prepare)
    cograd.Joint(models=models, losses=by_name, optimizers={"coder": of_tensors, "*": partial(SGD, lr=0.1)})
    cograd.Joint(
        models=models,
        losses=by_name,
        optimizers=lambda parameters: Adam(parameters, lr=1e-2),
        weighting=equal_lengths,
        gramian=cograd.gramian.At("coder"),
        refresh=4,
        clip={"coder": 1.0, "head": cograd.Clip(1.0)},
    )


def test_a_step() -> None:
    joint = build()
    net: nn.Module = joint.models.coder
    same: nn.Module = joint.models["coder"]
    first: Tensor = joint.models.coder.inner.weight
    assert net is same
    assert first.shape == (2, 4)
    sizes: list[int] = [p.numel() for name in joint.models for p in joint.models[name].parameters()]
    assert sum(sizes) == 50
    report = joint.step(torch.randn(8, 4))
    values: dict[str, float] = {name: float(loss) for name, loss in report.losses.items()}
    assert set(values) == {"code", "head"}
    if report.gramian:
        lengths: dict[str, float] = dict(report.gramian.norms)
        assert lengths
    state: dict[str, Any] = joint.state_dict()
    joint.load_state_dict(state)
    means: Mapping[str, Tensor] = joint.evaluate(torch.randn(8, 4))
    assert str(joint.plan())
    assert joint.steps == 1
    assert set(means) == {"code", "head"}


class Inverse(weighting.Weighting):
    """A rule of one's own."""

    def weigh(self, seen: weighting.Seen, state: weighting.State) -> tuple[Tensor, weighting.State]:
        return 1 / seen.losses, state


def equal_lengths(gramian: Tensor) -> Tensor:
    return 1 / gramian.diagonal().sqrt()


def test_gradients() -> None:
    models, x = {"coder": Coder()}, torch.randn(8, 4)

    def found() -> dict[str, Tensor]:
        code = models["coder"].encode(x)
        return {"code": (models["coder"](x) - x).square().mean(), "small": code.square().mean()}

    cograd.backward(found(), weighting=Inverse())
    cograd.backward(found(), weighting=equal_lengths, models=models)
    cograd.backward(found(), weighting=weighting.Stateful(weighting.FAMO()))
    for gradients in cograd.grad(found(), models=models, trains={"code": "coder"}).values():
        assert [g.norm() for g in gradients.values() if g is not None]
    assert str(cograd.explain(lambda m, batch: {"code": m.coder(batch).mean()}, x, models=models))
    with cograd.record(models=models) as log:
        models["coder"](x).mean().backward()
    assert str(log.explain())


class Error:
    """A metric of one's own."""

    def __init__(self) -> None:
        self.sum, self.all = 0.0, 0

    def update(self, scores: Tensor, targets: Tensor) -> None:
        self.sum += float((scores - targets).abs().sum())
        self.all += len(targets)

    def compute(self) -> float:
        return self.sum / self.all

    def reset(self) -> None:
        self.sum, self.all = 0.0, 0


class Soon(training.Criterion):
    """A criterion of one's own."""

    def check(self, values: Mapping[str, float], step: int, seconds: float) -> str | None:
        return "enough" if step > 10 else None


class Printing:
    """A logger of one's own."""

    def start(self, run_dir: Path | None, config: Mapping[str, Any], step: int) -> None:
        print(step)

    def log(self, values: Mapping[str, float], step: int) -> None:
        print(values)

    def finish(self) -> None:
        print("done")


def predict(m: cograd.Models, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return m.head(m.coder.encode(batch[0])), batch[1]


def validate(joint: cograd.Joint) -> dict[str, float]:
    return {"size": float(joint.steps)}


def test_a_run(tmp_path: Path) -> None:
    models = {"coder": Coder(), "head": nn.Linear(2, 1)}
    joint = cograd.Joint(models=models, losses=as_a_dict, optimizers=of_parameters)
    batches: Sequence[tuple[Tensor, Tensor]] = [(torch.randn(8, 4), torch.randn(8, 1)) for _ in range(3)]
    cograd.fit(joint, batches, steps=4, validate=validate, stop=Soon() | cograd.MaxSteps(4), progress=False)
    history: cograd.History = cograd.fit(
        cograd.Joint(models=models, losses=as_a_dict, optimizers=of_parameters),
        batches,
        epochs=2,
        validate=cograd.Validation(batches, predict=predict, metrics={"error": Error()}),
        stop=cograd.Plateau("val/error", patience=5) | cograd.TimeLimit(60),
        best=("val/error", "min"),
        run_dir=tmp_path / "run",
        loggers=[Printing(), training.loggers.CSV()],
        progress=False,
    )
    best, path = training.Checkpoints(tmp_path / "run" / "checkpoints").best_state()
    assert path.exists()
    assert best
    assert history.epochs == 2
    with pytest.raises(errors.CheckpointError):
        training.Checkpoints(tmp_path).best_state()
