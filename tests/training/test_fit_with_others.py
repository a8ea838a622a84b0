"""fit with what others bring: workers, torchdata, torchmetrics, trackers; stopped in the middle and continued."""

import json
import signal

import pytest
import torch
import torchmetrics
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchdata.stateful_dataloader import StatefulDataLoader

import cograd
from cograd.training.loggers import CSV, MLflow, TensorBoard

X = torch.randn(48, 3, generator=torch.Generator().manual_seed(1))


class Noisy(Dataset):
    """Examples to which a worker adds noise of its own."""

    def __len__(self):
        return len(X)

    def __getitem__(self, i):
        return X[i] + 0.1 * torch.randn(3)


def make():
    torch.manual_seed(0)
    return cograd.Joint(
        models={"trunk": nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.2)), "head": nn.Linear(8, 1)},
        losses=lambda m, x: {"sum": (m.head(m.trunk(x))[:, 0] - x.sum(1)).square().mean()},
        optimizers=lambda p: torch.optim.Adam(p, lr=0.01),
        accumulate={"trunk": 2},
        followers={"mean": cograd.EMA("trunk", decay=0.5)},
        precision="bf16",
        clip=1.0,
    )


def fit(loader, run_dir, steps, **options):
    joint = make()
    history = cograd.fit(joint, loader, steps=steps, log_every=2, run_dir=run_dir, progress=False, **options)
    return joint, history


def lines(run_dir):
    return [json.loads(line) | {"seconds": 0} for line in (run_dir / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    "loader",
    [
        lambda: DataLoader(Noisy(), batch_size=8, shuffle=True, num_workers=2),
        lambda: StatefulDataLoader(X, batch_size=8, shuffle=True),
        lambda: cograd.zip_loaders(a=DataLoader(Noisy(), 8, shuffle=True), b=DataLoader(X, 12, shuffle=True)),
    ],
    ids=["workers", "torchdata", "zipped"],
)
@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")
def test_continued_in_the_middle_of_an_epoch(loader, tmp_path, same):
    def run(folder, until=15):
        torch.manual_seed(7)
        given = loader()
        if isinstance(given, cograd.training._zip.Zipped):
            joint = make()
            losses = joint._setup.losses
            joint._setup.losses = lambda m, batch: losses(m, torch.cat([batch["a"], batch["b"]]))
        else:
            joint = make()
        on = {"step": lambda run: signal.raise_signal(signal.SIGINT) if run.step == until < 15 else None}
        cograd.fit(joint, given, steps=15, log_every=2, run_dir=tmp_path / folder, progress=False, on=on)
        return joint

    whole = run("whole")
    for until in (4, 9):
        with pytest.raises(KeyboardInterrupt):
            run("parts", until)
    same(whole.state_dict(), run("parts").state_dict())
    assert lines(tmp_path / "parts") == lines(tmp_path / "whole")


def test_metrics_of_torchmetrics_follow_the_average(tmp_path):
    """Followers are validated by name."""
    validation = cograd.Validation(
        [X[:20], X[20:]],
        predict=lambda m, x: {
            "plain": (m.head(m.trunk(x))[:, 0], x.sum(1)),
            "mean": (m.head(m.mean(x))[:, 0], x.sum(1)),
        },
        metrics={"plain": torchmetrics.MeanSquaredError(), "mean": torchmetrics.MeanSquaredError()},
    )
    joint, history = fit(DataLoader(X, 8), tmp_path, 12, validate=validation, best="val/mean")
    with torch.no_grad():
        trunk, mean = joint.models.trunk.eval(), joint.models.mean
        expected = (joint.models.head(mean(X))[:, 0] - X.sum(1)).square().mean()
        plain = (joint.models.head(trunk(X))[:, 0] - X.sum(1)).square().mean()
    assert history["val/mean"].last == pytest.approx(expected.item(), rel=1e-5)
    assert history["val/plain"].last == pytest.approx(plain.item(), rel=1e-5)
    assert history.best.metric == "val/mean"


def test_every_tracker_has_the_run_once(tmp_path, monkeypatch):
    for name in ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK", "MLFLOW_ALLOW_FILE_STORE"):
        monkeypatch.setenv(name, "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    from mlflow import MlflowClient
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for steps in (5, 8, 12):
        tracker = MLflow()
        fit(DataLoader(X, 8, shuffle=True), tmp_path / "run", steps, loggers=[CSV(), TensorBoard(), tracker])
    logged = [(line["step"], line["loss/sum"]) for line in lines(tmp_path / "run")]
    assert [step for step, _ in logged] == [2, 4, 5, 6, 8, 10, 12]
    rows = (tmp_path / "run" / "log.csv").read_text().splitlines()
    assert len(rows) == 1 + len(logged)
    sent = MlflowClient().get_metric_history(tracker.run_id, "loss/sum")
    assert [(value.step, value.value) for value in sent] == logged
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"), size_guidance={"scalars": 0})
    shown = [(e.step, e.value) for e in events.Reload().Scalars("loss/sum")]
    assert shown == [(step, pytest.approx(value)) for step, value in logged]
