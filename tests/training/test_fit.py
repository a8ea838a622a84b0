"""fit: what a user sees of a run, from its first step to its second life."""

import errno
import json
import os
import re
import signal
import threading
import warnings

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import cograd
from cograd.errors import (
    CheckpointError,
    CogradError,
    LoaderError,
    LogFileError,
    NonFiniteLossError,
    StateError,
    TrainingError,
    UnknownValueError,
)
from cograd.training import Checkpoints
from cograd.training.loggers import CSV, JSONL
from cograd.training.loggers._appended import Appended, unwritable

X = torch.randn(40, 3, generator=torch.Generator().manual_seed(1))


def make(width=8, **options):
    torch.manual_seed(0)
    models = {"trunk": nn.Sequential(nn.Linear(3, width), nn.Dropout(0.2)), "head": nn.Linear(width, 1)}

    def losses(m, x):
        out = m.head(m.trunk(x))[:, 0]
        return {"sum": (out - x.sum(1)).square().mean(), "size": 0.01 * out.square().mean()}

    return cograd.Joint(models=models, losses=losses, optimizers=lambda p: torch.optim.Adam(p, lr=0.01), **options)


def data(**options):
    return DataLoader(X, batch_size=8, shuffle=True, **options)


def fit(joint=None, loader=None, **options):
    options = {"epochs": 3, "log_every": 2, "progress": False} | options
    return cograd.fit(joint or make(), loader or data(), **options)


def state(joint):
    return joint.state_dict()


def saved(run_dir):
    return Checkpoints(run_dir / "checkpoints").newest()[0]


def steps_of(run_dir):
    return sorted(int(path.name.split("-")[1]) for path in (run_dir / "checkpoints").glob("step-*"))


def lines(run_dir):
    return [json.loads(line) for line in (run_dir / "log.jsonl").read_text().splitlines()]


# --- the loop


@pytest.mark.parametrize("progress", [True, False])
def test_it_is_the_bare_loop_to_the_last_bit(progress, tmp_path, same):
    joint, other, loader = make(), make(), data()
    torch.manual_seed(3)
    for _ in range(3):
        for batch in loader:
            joint.step(batch)
        joint.end_epoch()
    torch.manual_seed(3)
    fit(
        other,
        data(),
        progress=progress,
        validate=[X],
        validate_every=4,
        run_dir=tmp_path,
        save_every=3,
        best="val/sum",
        stop=cograd.Plateau("val/sum", patience=50),
    )
    same(state(joint), state(other))


@pytest.mark.parametrize(
    ("limits", "steps", "epochs", "why"),
    [
        ({"epochs": 2}, 10, 2, "2 epochs done"),
        ({"epochs": None, "steps": 7}, 7, 1, "7 steps done"),
        ({"epochs": 2, "steps": 100}, 10, 2, "2 epochs done"),
        ({"epochs": 2, "steps": 1}, 1, 0, "1 step done"),
        ({"epochs": None, "steps": 10}, 10, 2, "10 steps done"),
        ({"epochs": None, "stop": cograd.MaxSteps(6)}, 6, 1, "the limit of 6 steps is reached"),
        ({"epochs": 9, "stop": cograd.Target("loss/sum", 1e9)}, 2, 0, "loss/sum is .*, which reaches 1e.09"),
        ({"epochs": 9, "stop": cograd.Plateau("loss/sum", 1, min_delta=1e9)}, 4, 0, "loss/sum has not improved"),
        ({"epochs": 9, "stop": cograd.TimeLimit(1e-9)}, 1, 0, "the time limit of .* is over"),
        ({"epochs": 9, "on": {"step": lambda run: run.step == 3 and run.stop("enough")}}, 3, 0, "enough"),
        ({"epochs": 9, "on": {"start": lambda run: run.stop("none needed")}}, 0, 0, "none needed"),
    ],
)
def test_what_ends_a_run(limits, steps, epochs, why):
    joint = make()
    history = fit(joint, **limits)
    assert (joint.steps, history.steps, history.epochs) == (steps, steps, epochs)
    assert re.match(why, history.stopped_by)


def test_values_that_are_logged(tmp_path):
    run_dir = tmp_path / "new" / "run"
    history = fit(make(grad_norms=True), epochs=1, validate=[X], run_dir=run_dir, loggers=[CSV()])
    first, second, third, fourth = lines(run_dir)
    names = ["loss/sum", "loss/size", "weight/sum", "weight/size", "grad_norm/trunk", "grad_norm/head"]
    assert list(first) == ["step", "epoch", *names, "lr/trunk", "lr/head", "seconds"]
    assert list(third) == ["step", "epoch", "val/sum", "val/size", "seconds"]
    assert [line["step"] for line in (first, second, third, fourth)] == [2, 4, 5, 5]
    assert [line["epoch"] for line in (first, second, third, fourth)] == [0, 0, 1, 1]
    assert "seconds" not in history
    assert history["loss/sum"].steps == [2, 4, 5]
    assert history["val/sum"].values == [third["val/sum"]]
    assert (run_dir / "log.csv").exists()


def test_means_are_over_the_steps_since_the_last_log():
    seen = []
    joint = make()
    history = fit(joint, epochs=1, log_every=3, on={"step": lambda run: seen.append(run.report.losses["sum"].item())})
    assert history["loss/sum"].values == pytest.approx([sum(seen[:3]) / 3, sum(seen[3:]) / 2], rel=1e-12)


def test_nothing_is_written_without_a_run_dir(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    fit(validate=[X], best="val/sum", save_every=1)
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr() == ("", "")


def test_jsonl_is_not_written_twice(tmp_path):
    fit(run_dir=tmp_path, loggers=[JSONL()], epochs=1)
    assert [line["step"] for line in lines(tmp_path)] == [2, 4, 5]


def test_callbacks_come_in_order_and_see_the_run(tmp_path):
    seen = []
    on = {
        event: lambda run, event=event: seen.append((event, run.step, run.epoch))
        for event in ("start", "step", "validation", "epoch", "checkpoint", "finish")
    }
    fit(loader=[X, X], epochs=2, validate=lambda joint: {"one": 1}, run_dir=tmp_path, on=on)
    assert seen == [
        ("start", 0, 0),
        ("checkpoint", 0, 0),
        ("step", 1, 0),
        ("step", 2, 0),
        ("validation", 2, 1),
        ("epoch", 2, 1),
        ("checkpoint", 2, 1),
        ("step", 3, 1),
        ("step", 4, 1),
        ("validation", 4, 2),
        ("epoch", 4, 2),
        ("checkpoint", 4, 2),
        ("finish", 4, 2),
    ]


def test_several_callbacks_and_the_newest_values():
    got = []
    fit(
        validate=[X], epochs=1, on={"epoch": [lambda run: got.append(run.values["val/sum"]), lambda run: got.append(2)]}
    )
    assert len(got) == 2
    assert got[1] == 2


def test_validation_by_steps_and_once_at_the_end():
    history = fit(epochs=None, steps=8, validate=[X], validate_every=3)
    assert history["val/sum"].steps == [3, 6, 8]
    assert fit(epochs=None, steps=7, validate=[X])["val/sum"].steps == [5, 7]


def test_metrics_reach_the_schedulers():
    def halved(optimizer):
        return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0)

    values = iter([1.0, 2.0, 0.5])
    joint = make(schedulers=cograd.EachEpoch(halved, metric="val/sum"))
    history = fit(joint, validate=lambda joint: {"sum": next(values)}, log_every=5)
    assert history["lr/trunk"].values == [0.01, 0.01, 0.005]


def test_a_tail_of_an_accumulation_is_applied_at_the_end_of_an_epoch():
    joint = make(accumulate={"trunk": 4})
    fit(joint, epochs=2)
    assert joint.updates == {"trunk": 4, "head": 10}


def test_batches_may_come_from_an_iterator():
    assert fit(loader=iter([X] * 7), epochs=1).steps == 7
    assert fit(loader=(X for _ in range(9)), epochs=None, steps=4).steps == 4
    with pytest.raises(LoaderError, match="used up"):
        fit(loader=iter([X] * 7), epochs=None, steps=8)


def test_a_loader_that_gives_more_than_its_length():
    class Longer(list):
        def __len__(self):
            return 2

    assert fit(loader=Longer([X] * 5), epochs=None, steps=2).steps == 2


# --- freezing


def test_a_model_is_frozen_when_it_is_done_and_the_others_go_on():
    joint = make()
    before = []
    fit(joint, freeze={"trunk": cograd.MaxSteps(4)}, on={"step": lambda run: before.append(run.joint.updates["trunk"])})
    assert joint.frozen == ("trunk",)
    assert joint.updates == {"trunk": 4, "head": 15}


def test_a_run_ends_when_all_are_frozen(tmp_path):
    freeze = {"trunk": cograd.MaxSteps(4), "head": cograd.Target("loss/sum", 1e9)}
    joint, again = make(), make()
    history = fit(joint, freeze=freeze, run_dir=tmp_path)
    assert (history.steps, history.stopped_by) == (4, "every model is frozen")
    assert fit(again, freeze=freeze, run_dir=tmp_path).steps == 4
    assert again.frozen == ("trunk", "head")


# --- losses that are not finite


def spoiled(*bad):
    return [torch.full((4, 3), float("nan")) if i in bad else X[4 * i : 4 * i + 4] for i in range(8)]


def test_a_loss_that_is_not_finite_ends_the_run():
    joint = make()
    with pytest.raises(NonFiniteLossError):
        fit(joint, spoiled(3))
    assert joint.steps == 3


def test_or_its_batch_is_left_out_counted_and_noted(capsys):
    joint = make()
    history = fit(joint, spoiled(3, 4), epochs=2, non_finite="skip", progress=True)
    assert (history.steps, history.epochs) == (12, 2)
    assert history["skipped"].steps == [4, 6, 8, 10, 12]
    assert history["skipped"].values == [2.0, 2.0, 2.0, 4.0, 4.0]
    assert "left out a batch after step 3" in capsys.readouterr().out
    assert all(p.isfinite().all() for p in joint.models.trunk.parameters())


def test_ten_in_a_row_are_too_many():
    batches = [X, *[torch.full((4, 3), float("nan"))] * 10, X, *[torch.full((4, 3), float("nan"))] * 11, X]
    joint = make()
    with pytest.raises(NonFiniteLossError) as caught:
        fit(joint, batches, non_finite="skip")
    assert joint.steps == 2
    assert "11 such batches in a row" in caught.value.__notes__[0]


def test_leaving_out_needs_the_check_before_the_step():
    with pytest.raises(TrainingError, match=r"needs Joint\(check='now'\)"):
        fit(make(check="late"), non_finite="skip")


# --- names of values


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"stop": cograd.Plateau("val/summ"), "validate": [X]},
            r"stop monitors 'val/summ', which was never logged. .*Did you mean 'val/sum'",
        ),
        ({"best": "val/summ", "validate": [X]}, r"best monitors 'val/summ'.*Known values: .*'val/size'"),
        ({"stop": cograd.Target("loss/summ", 0)}, r"stop monitors 'loss/summ'.*Did you mean 'loss/sum'"),
        ({"freeze": {"head": cograd.Plateau("lr/heads")}}, r"freeze\['head'\] monitors 'lr/heads'"),
        ({"stop": cograd.Target("grad_norm/head", 0)}, r"monitors 'grad_norm/head', which was never logged"),
    ],
)
def test_a_name_that_never_appears(options, says):
    joint = make()
    with pytest.raises(UnknownValueError, match=says):
        fit(joint, **options)
    assert joint.steps <= 5


def test_a_loss_that_is_only_sometimes_there_may_be_looked_at():
    net = nn.Linear(3, 1)
    joint = cograd.Joint(
        models={"net": net},
        losses=lambda m, b: {"a": m.net(b).mean(), "b": m.net(b).square().mean() if joint.steps > 8 else None},
        optimizers=torch.optim.SGD,
    )
    assert "loss/b" in fit(joint, stop=cograd.Plateau("loss/b"))


# --- Ctrl-C


def press(at, times=1):
    def callback(run):
        if run.step == at:
            for _ in range(times):
                os.kill(os.getpid(), signal.SIGINT)

    return {"step": callback}


def test_ctrl_c_ends_after_the_step_with_a_checkpoint_and_the_run_continues(tmp_path, same):
    whole, joint, again = make(), make(), make()
    torch.manual_seed(5)
    expected = fit(whole)
    handler = signal.getsignal(signal.SIGINT)
    torch.manual_seed(5)
    with pytest.raises(
        KeyboardInterrupt, match=r"Stopped after step 7; the same command continues from .*step-00000007"
    ):
        fit(joint, run_dir=tmp_path, on=press(7))
    assert signal.getsignal(signal.SIGINT) is handler
    assert (joint.steps, steps_of(tmp_path)[-1]) == (7, 7)
    history = fit(again, run_dir=tmp_path, on=press(7))
    same(state(again), state(whole))
    assert dict(history) == dict(expected)
    assert history.stopped_by == "3 epochs done"


@pytest.mark.parametrize("at", [5, 15])
def test_ctrl_c_at_the_end_of_an_epoch_and_of_the_run(at, tmp_path, same):
    whole, joint, again = make(), make(), make()
    torch.manual_seed(5)
    fit(whole)
    torch.manual_seed(5)
    with pytest.raises(KeyboardInterrupt):
        fit(joint, run_dir=tmp_path, on=press(at))
    fit(again, run_dir=tmp_path)
    same(state(again), state(whole))


def test_a_second_ctrl_c_interrupts_at_once(tmp_path):
    joint = make()
    with pytest.raises(KeyboardInterrupt):
        fit(joint, run_dir=tmp_path, on=press(7, times=2))
    assert steps_of(tmp_path) == [0, 5]
    fit(joint, run_dir=tmp_path)
    assert joint.steps == 15


def test_ctrl_c_without_a_run_dir():
    joint = make()
    with pytest.raises(KeyboardInterrupt, match="Stopped after step 7; nothing is saved, for there is no run_dir"):
        fit(joint, on=press(7))
    assert joint.steps == 7


def test_who_ignores_ctrl_c_goes_on_ignoring_it():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert fit(on=press(7)).steps == 15
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_in_another_thread(tmp_path):
    joint, handler = make(), signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=fit, args=(joint,), kwargs={"run_dir": tmp_path})
    thread.start()
    thread.join()
    assert joint.steps == 15
    assert signal.getsignal(signal.SIGINT) is handler


class Masked(torch.utils.data.Dataset):
    """Whether Ctrl-C would reach the process that loads."""

    def __len__(self):
        return 4

    def __getitem__(self, i):
        return torch.tensor(float(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])))


def test_ctrl_c_does_not_reach_the_workers_of_a_loader():
    seen = []

    def losses(m, x):
        seen.append((x.tolist(), signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])))
        return {"size": m.net(x[:, None]).square().mean()}

    joint = cograd.Joint(models={"net": nn.Linear(1, 1)}, losses=losses, optimizers=torch.optim.SGD)
    fit(joint, DataLoader(Masked(), batch_size=2, num_workers=1), epochs=2)
    assert seen == [([1.0, 1.0], False)] * 4


# --- the second life


def test_a_finished_run_only_loads_what_it_ended_with(tmp_path, same):
    joint, again = make(), make()
    history = fit(joint, run_dir=tmp_path, validate=[X], best="val/sum")
    drawn = torch.rand(1)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*") if path.name != ".lock"}
    called = []
    later = fit(
        again, run_dir=tmp_path, validate=[X], best="val/sum", on={"start": called.append, "step": called.append}
    )
    assert files == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*") if path.name != ".lock"}
    same(state(joint), state(again))
    assert str(later) == str(history)
    assert torch.equal(torch.rand(1), drawn)
    assert not called


def test_more_epochs_continue_a_finished_run(tmp_path, same):
    whole, first, second = make(), make(), make()
    torch.manual_seed(5)
    fit(whole, epochs=5)
    torch.manual_seed(5)
    fit(first, epochs=2, run_dir=tmp_path)
    history = fit(second, epochs=5, run_dir=tmp_path)
    same(state(second), state(whole))
    assert (history.steps, history.stopped_by) == (25, "5 epochs done")


def test_a_run_that_a_criterion_has_stopped_goes_on_only_under_another(tmp_path):
    def again(patience, **options):
        stop = cograd.Plateau("loss/sum", patience, min_delta=1e9)
        return fit(run_dir=tmp_path, **{"stop": stop, "epochs": 9} | options).steps

    assert again(2) == 6
    assert again(2) == 6
    assert again(2, epochs=20) == 6
    assert again(4) == 16
    assert again(4, stop=None, epochs=4) == 20


def test_a_run_that_a_callback_has_stopped_stays_so(tmp_path):
    fit(run_dir=tmp_path, on={"step": lambda run: run.step == 3 and run.stop("enough")})
    assert fit(run_dir=tmp_path).stopped_by == "enough"


def test_time_limits_count_all_parts(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fit(run_dir=tmp_path, on=press(7))
    spent = saved(tmp_path)["seconds"]
    assert spent > 0
    assert fit(run_dir=tmp_path, stop=cograd.TimeLimit(spent)).steps == 8


def test_resume_never_and_must(tmp_path):
    with pytest.raises(TrainingError, match=r"resume='must', but .* holds no checkpoint"):
        fit(run_dir=tmp_path, resume="must")
    fit(run_dir=tmp_path, resume="never", epochs=1)
    joint = make()
    with pytest.raises(TrainingError, match="resume='never', but there is a run in"):
        fit(joint, run_dir=tmp_path, resume="never")
    assert joint.steps == 0
    assert fit(run_dir=tmp_path, resume="must", epochs=2).steps == 10


def test_a_new_run_begins_with_a_checkpoint_of_another(tmp_path, same):
    whole, first, second = make(), make(), make()
    torch.manual_seed(5)
    fit(whole)
    torch.manual_seed(5)
    fit(first, run_dir=tmp_path / "a", epochs=2)
    newest = Checkpoints(tmp_path / "a" / "checkpoints").newest()[1]
    history = fit(second, run_dir=tmp_path / "b", resume=newest)
    same(state(second), state(whole))
    assert history["loss/sum"].steps[0] == 2
    assert lines(tmp_path / "b")[0]["step"] == 12
    assert steps_of(tmp_path / "a")[-1] == 10
    assert fit(make(), run_dir=tmp_path / "c", resume=tmp_path / "a").steps == 15
    with pytest.raises(TrainingError, match="would go back behind"):
        fit(make(), run_dir=tmp_path / "a", resume=sorted((tmp_path / "a" / "checkpoints").glob("step-*"))[0])
    assert fit(make(), run_dir=tmp_path / "b", resume=newest).steps == 15


def test_a_checkpoint_that_is_none(tmp_path):
    (tmp_path / "weights.pt").write_bytes(b"abc")
    with pytest.raises(CheckpointError, match="is no checkpoint by its name"):
        fit(resume=tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match="There is no checkpoint in"):
        fit(resume=tmp_path)
    (tmp_path / "step-00000001-0123456789abcdef.pt").write_bytes(b"abc")
    with pytest.raises(CheckpointError, match="damaged or cut short"):
        fit(resume=tmp_path / "step-00000001-0123456789abcdef.pt")


def test_a_run_of_another_configuration(tmp_path, picture, same):
    fit(run_dir=tmp_path, epochs=1, validate=[X], best="val/sum")
    files = {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.name != ".lock"}
    joint = make(width=9)
    before = picture(joint)
    with pytest.raises(StateError) as caught:
        fit(joint, iter([X]), epochs=1, run_dir=tmp_path, validate=[X], best=("val/sum", "max"))
    for part in (
        "best is ('val/sum', 'max'); the run has ('val/sum', 'min')",
        "trunk.0.weight is (9, 3)",
        "an iterator",
    ):
        assert part in str(caught.value)
    same(picture(joint), before)
    joint = make()
    before = picture(joint)
    with pytest.raises(StateError, match="best is none; the run has"):
        fit(joint, run_dir=tmp_path)
    after = picture(joint)
    del before["grad objects"], after["grad objects"]
    same(after, before)
    assert files == {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.name != ".lock"}


def test_a_damaged_newest_checkpoint(tmp_path, same):
    whole, joint, again = make(), make(), make()
    torch.manual_seed(5)
    fit(whole)
    torch.manual_seed(5)
    with pytest.raises(KeyboardInterrupt):
        fit(joint, run_dir=tmp_path, on=press(12))
    newest = Checkpoints(tmp_path / "checkpoints").newest()[1]
    newest.write_bytes(newest.read_bytes()[:-100])
    with pytest.warns(UserWarning, match="step-00000012.*Using step-00000010"):
        fit(again, run_dir=tmp_path)
    same(state(again), state(whole))


def test_the_best_is_kept_and_the_last_few(tmp_path):
    values = iter([5.0, 1.0, 3.0, 4.0, 2.0])
    history = fit(
        loader=[X], epochs=5, validate=lambda joint: {"a": next(values)}, best="val/a", keep=2, run_dir=tmp_path
    )
    assert (history.best.value, history.best.step) == (1.0, 2)
    assert steps_of(tmp_path) == [4, 5]
    assert Checkpoints(tmp_path / "checkpoints").best_state()[0]["step"] == 2


def test_a_new_best_is_saved_at_once(tmp_path):
    values = iter([5.0, 6.0, 3.0, 4.0])
    options = {"validate": lambda joint: {"a": next(values)}, "validate_every": 2, "best": "val/a", "keep": 9}
    fit(loader=[X] * 9, epochs=None, steps=8, run_dir=tmp_path, save_every=None, **options)
    assert steps_of(tmp_path) == [0, 2, 6, 8]


# --- a disk that does not take it


class FullDisk:
    """Checkpoints that cannot be written from one step to another."""

    def __init__(self, monkeypatch, first, last):
        self.write, self.first, self.last = Checkpoints.save, first, last
        monkeypatch.setattr(Checkpoints, "save", lambda *arguments: self.save(*arguments))

    def save(self, checkpoints, content, step, values):
        if self.first <= step <= self.last:
            error = CheckpointError("No space left on device.")
            error.errno = errno.ENOSPC
            raise error
        return self.write(checkpoints, content, step, values)


def test_a_full_disk_does_not_end_the_training_and_says_so(monkeypatch, tmp_path, capsys):
    FullDisk(monkeypatch, 5, 5)
    joint = make()
    with pytest.warns(UserWarning, match="No checkpoint was written at step 5, training goes on. No space left"):
        history = fit(joint, run_dir=tmp_path, progress=True)
    assert history.steps == 15
    assert steps_of(tmp_path) == [0, 10, 15]
    assert "NOT SAVED, training goes on: No space left" in capsys.readouterr().out


def test_but_the_last_one_must_be_written(monkeypatch, tmp_path):
    FullDisk(monkeypatch, 10, 99)
    joint = make()
    with pytest.warns(UserWarning, match="No checkpoint"), pytest.raises(CheckpointError, match="No space left"):
        fit(joint, run_dir=tmp_path)
    assert joint.steps == 15
    assert steps_of(tmp_path) == [0, 5]


def test_and_the_first_one_before_anything_is_trained(monkeypatch, tmp_path):
    FullDisk(monkeypatch, 0, 99)
    joint = make()
    with pytest.raises(CheckpointError, match="No space left"):
        fit(joint, run_dir=tmp_path)
    assert joint.steps == 0


def no_room(monkeypatch, first, last):
    """Logs that cannot be written from one step to another."""
    write = Appended.append

    def append(file, line):
        if first <= json.loads(line)["step"] <= last and not room:
            raise unwritable(file._path, OSError(errno.ENOSPC, "No space left on device"))
        write(file, line)

    room = []
    monkeypatch.setattr(Appended, "append", append)
    return room


def test_lines_of_a_log_wait_for_room(monkeypatch, tmp_path, capsys):
    torch.manual_seed(5)
    fit(run_dir=tmp_path / "whole")
    torch.manual_seed(5)
    room = no_room(monkeypatch, 4, 8)

    def make_room(run):
        if run.step == 9:
            room.append(True)

    with pytest.warns(UserWarning, match="training goes on") as warned:
        fit(run_dir=tmp_path / "full", on={"step": make_room}, progress=True)
    assert sum("waits for room" in str(w.message) for w in warned) == 1
    assert sum("No checkpoint was written at step 5" in str(w.message) for w in warned) == 1
    whole, full = lines(tmp_path / "whole"), lines(tmp_path / "full")
    assert [line | {"seconds": 0} for line in full] == [line | {"seconds": 0} for line in whole]
    assert steps_of(tmp_path / "full") == [0, 10, 15]
    assert "NOT LOGGED, training goes on" in capsys.readouterr().out


def test_but_the_last_ones_must_be_written(monkeypatch, tmp_path, capsys):
    no_room(monkeypatch, 12, 99)
    joint = make()
    with pytest.warns(UserWarning, match="waits for room"), pytest.raises(LogFileError, match="No space left"):
        fit(joint, run_dir=tmp_path, progress=True)
    assert joint.steps == 15
    assert steps_of(tmp_path)[-1] == 10
    out = " ".join(capsys.readouterr().out.split())
    assert "NOT SAVED: " in out
    assert "NOT SAVED, training goes on" not in out
    monkeypatch.undo()
    assert fit(run_dir=tmp_path).steps == 15
    assert [line["step"] for line in lines(tmp_path)] == [2, 4, 6, 8, 10, 12, 14, 15]


# --- loggers


class Noted:
    """A logger that remembers what was asked of it."""

    def __init__(self):
        self.calls = []

    def start(self, run_dir, config, step):
        self.calls.append(("start", run_dir, step))
        torch.rand(1)

    def log(self, values, step):
        self.calls.append(("log", step))

    def finish(self):
        self.calls.append(("finish",))


def test_loggers_are_finished_whatever_happens():
    logger = Noted()
    with pytest.raises(NonFiniteLossError):
        fit(loader=spoiled(5), loggers=[logger])
    assert logger.calls == [("start", None, 0), ("log", 2), ("log", 4), ("finish",)]


def test_what_a_logger_draws_does_not_change_a_resumed_run(tmp_path, same):
    whole, again = make(), make()
    for joint, run_dir, at in ((whole, "a", 99), (make(), "b", 7), (again, "b", 99)):
        torch.manual_seed(5)
        try:
            fit(joint, run_dir=tmp_path / run_dir, loggers=[Noted()], on=press(at))
        except KeyboardInterrupt:
            assert at == 7
    same(state(again), state(whole))


# --- what does not hold together


def test_every_problem_is_named_at_once(picture, same):
    joint = make()
    before = picture(joint)
    with pytest.raises(TrainingError) as caught:
        fit(joint, 3, epochs=-1, stop="soon", on={"epcoh": print}, log_every=0, loggers=CSV(), device="cuda:x")
    text = str(caught.value)
    for part in (
        "7 problems",
        "epochs must be a whole number of at least 1; found -1",
        "stop must be a criterion",
        "on['epcoh'] is no event. Known events: 'start', 'step'",
        "Did you mean 'epoch'?",
        "log_every must be",
        "loggers must be a list",
        "device must be a device of torch",
        "loader must give batches when iterated",
    ):
        assert part in text
    same(picture(joint), before)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"epochs": None}, "Nothing would end the training"),
        ({"stop": cograd.Plateau("val/a")}, "stop monitors 'val/a', but nothing is validated"),
        ({"stop": cograd.Plateau("digit")}, "did you mean 'val/digit'"),
        ({"freeze": {"trnk": cograd.MaxSteps(1)}}, r"freeze\['trnk'\] names no model.*'trunk'"),
        ({"freeze": {"trunk": 3}}, r"freeze\['trunk'\] must be a criterion"),
        ({"best": "loss/sum"}, "best must be a value of the validation"),
        ({"best": ("val/a", "highest")}, "best must be the name"),
        ({"resume": "must"}, "needs run_dir"),
        ({"resume": "nowhere.pt"}, "found 'nowhere.pt', and there is no file or folder of that name"),
        ({"resume": "yes"}, "resume must be 'auto', 'must', 'never', or the path of .*found 'yes'.*Leave it out"),
        ({"resume": True}, "resume must be 'auto', 'must', 'never', or the path of .*found True"),
        ({"run_dir": __file__}, "test_fit.py is a file"),
        ({"loader": iter([X])}, "can be read once, and epochs=3"),
        ({"device": "meta"}, "device='meta', but the models are on cpu"),
        ({"non_finite": "ignore"}, "non_finite must be 'raise' or 'skip'"),
        ({"keep": None}, "keep must not be None"),
        ({"on": {"step": 3}}, r"on\['step'\] must be a function f\(run\); found 3"),
        (
            {"on": {"epoch": lambda: None}},
            r"on\['epoch'\] must be a function f\(run\); found <lambda>\(\).*take 1 argument",
        ),
        ({"on": {"epoch": [print, lambda run, more: 0]}}, r"on\['epoch'\].*found <lambda>\(run, more\)"),
        ({"validate": lambda: {"a": 1}}, r"validate must be a function validate\(joint\); found <lambda>\(\)"),
        ({"loggers": [CSV]}, r"loggers\[0\] must have the methods"),
        ({"loggers": [CSV()]}, "CSV"),
        ({"validate_every": "step"}, "validate_every must be 'epoch' or a whole number"),
    ],
)
def test_one_problem(options, says):
    joint = make()
    with pytest.raises(CogradError, match=says):
        fit(joint, **options)
    assert joint.steps == 0


def test_fit_trains_a_joint():
    with pytest.raises(TrainingError, match=r"fit trains a cograd.Joint; found Linear"):
        cograd.fit(nn.Linear(1, 1), [X], epochs=1)


def test_a_reason_is_needed_to_stop():
    with pytest.raises(TrainingError, match="needs the reason in words"):
        fit(on={"step": lambda run: run.stop("")})


def test_one_loader_cannot_train_and_validate_while_its_workers_live_on():
    loader = DataLoader(TensorDataset(X), batch_size=8, num_workers=1, persistent_workers=True)
    with pytest.raises(TrainingError, match="one loader that cannot be iterated twice"):
        fit(loader=loader, validate=loader)


# --- what is met later


@pytest.mark.parametrize("name", ["log.jsonl", "log.csv"])
def test_a_new_run_overwrites_no_log(name, tmp_path):
    for text, whole in (("dear diary\n", "holds lines of a run without checkpoints"), ("step\n" * 2, "Move it")):
        (tmp_path / name).write_text(text)
        with pytest.raises(LogFileError, match=whole):
            fit(run_dir=tmp_path, loggers=[CSV()])
        assert (tmp_path / name).read_text() == text
        assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_run_that_was_killed_before_it_logged_begins_again(tmp_path):
    (tmp_path / "log.jsonl").touch()
    (tmp_path / "log.csv").write_text("step\n")
    assert fit(run_dir=tmp_path, loggers=[CSV()]).steps == 15


@pytest.mark.parametrize("name", ["log.jsonl", "log.csv"])
@pytest.mark.parametrize("begun", [False, True])
def test_a_log_that_is_a_directory(name, begun, tmp_path):
    if begun:
        fit(run_dir=tmp_path, loggers=[CSV()], epochs=1)
        (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    with pytest.raises(LogFileError, match=rf"The log .*{name} cannot be read: Is a directory"):
        fit(run_dir=tmp_path, loggers=[CSV()])


def test_a_best_value_that_is_sometimes_not_measured(tmp_path):
    given = iter([{"a": 2.0}, {"b": 1.0}, {"a": 3.0}])
    history = fit(loader=[X], epochs=3, validate=lambda joint: next(given), best="val/a", run_dir=tmp_path, keep=9)
    assert (history.best.value, history.best.step) == (2.0, 1)
    files = sorted((tmp_path / "checkpoints").glob("step-*"))
    assert [torch.load(file)["values"] for file in files] == [{}, {"val/a": 2.0}, {}, {"val/a": 3.0}]


@pytest.mark.parametrize("name", ["run_dir", "resume"])
def test_a_path_that_cannot_be_looked_at(name):
    with pytest.raises(TrainingError, match=f"{name}='x+' cannot be looked at: File name too long"):
        fit(**{name: "x" * 5000})


class Odd(cograd.training.Criterion):
    """Says what it was given; does not like to be copied if that is a lock."""

    def __init__(self, answer):
        self.answer = answer

    def check(self, values, step, seconds):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize("answer", [True, 3, ["x"], False])
def test_a_criterion_that_does_not_speak(answer):
    with pytest.raises(TrainingError, match=r"stop=Odd\(\) must say why .* returned " + re.escape(repr(answer))):
        fit(stop=Odd(answer))
    with pytest.raises(TrainingError, match=r"freeze\['head'\]=Odd\(\) must say why"):
        fit(freeze={"head": Odd(answer)})


def test_a_criterion_that_cannot_be_copied():
    with pytest.raises(TrainingError, match=r"stop=Odd\(\) counts.* cannot be copied: .*pickle"):
        fit(stop=Odd(threading.Lock()))


def test_a_criterion_that_fails():
    with pytest.raises(ZeroDivisionError) as caught:
        fit(stop=Odd(ZeroDivisionError("by zero")))
    assert caught.value.__notes__ == ["This was in the criterion stop=Odd(), after step 1; epochs completed: 0."]


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        ({"epochs": None, "steps": 5}, "12 steps done, 5 asked for"),
        ({"epochs": 1}, "2 epochs and 12 steps done, 1 epoch asked for"),
        ({"epochs": 2}, "2 epochs and 12 steps done, 2 epochs asked for"),
    ],
)
def test_a_run_that_has_gone_beyond_what_is_asked_for_only_loads(limits, says, tmp_path, same, capsys):
    joint, again = make(), make()
    with pytest.raises(KeyboardInterrupt):
        fit(joint, run_dir=tmp_path, on=press(12), validate=[X])
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    history = fit(again, run_dir=tmp_path, validate=[X], progress=True, **limits)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before
    assert (history.stopped_by, history.steps) == (says, 12)
    assert f"finished earlier: {says}; nothing to do" in " ".join(capsys.readouterr().out.split())
    same(state(joint), state(again))
    assert fit(again, run_dir=tmp_path, validate=[X]).stopped_by == "3 epochs done"


def test_a_run_that_was_interrupted_at_its_last_step_is_finished_by_the_next_call(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fit(run_dir=tmp_path, on=press(5))
    assert fit(run_dir=tmp_path, epochs=1).stopped_by == "1 epoch done"
    assert saved(tmp_path)["finished"] == "limit"


def fail(run):
    raise ZeroDivisionError("by zero")


def test_a_run_whose_finish_fails_is_saved(tmp_path):
    with pytest.raises(ZeroDivisionError) as caught:
        fit(run_dir=tmp_path, on={"finish": fail})
    assert caught.value.__notes__ == ["This was in a callback of 'finish', after step 15; epochs completed: 3."]
    assert saved(tmp_path)["finished"] == "limit"


@pytest.mark.parametrize("options", [{"on": {"step": fail}}, {"validate": fail, "validate_every": 1}])
def test_what_fails_in_a_function_of_the_user_says_when(options):
    with pytest.raises(ZeroDivisionError) as caught:
        fit(**options)
    assert "after step 1; epochs completed: 0" in caught.value.__notes__[0]


def test_it_says_that_it_continues_and_how_to_stop_at_once(tmp_path, capfd):
    with pytest.raises(KeyboardInterrupt):
        fit(run_dir=tmp_path, on=press(7), progress=True)
    assert "finishing this step and saving; Ctrl-C again stops at once" in capfd.readouterr().err
    fit(run_dir=tmp_path, progress=True)
    assert "continuing from step 7 (step-00000007-" in capfd.readouterr().out
    with pytest.raises(KeyboardInterrupt):
        fit(on=press(7))
    fit(run_dir=tmp_path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("event", "steps"), [("start", 0), ("step", 1), ("epoch", 5)])
def test_a_run_ends_when_a_callback_has_frozen_all(event, steps, tmp_path):
    history = fit(run_dir=tmp_path, on={event: lambda run: run.joint.freeze("trunk", "head")})
    assert (history.steps, history.stopped_by) == (steps, "every model is frozen")


def test_a_joint_that_was_frozen_before():
    joint = make()
    joint.freeze("trunk", "head")
    assert fit(joint).stopped_by == "every model is frozen"


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_in_a_fit_within_a_fit(times, tmp_path):
    joint = make()
    with pytest.raises(KeyboardInterrupt) as caught:
        fit(
            joint,
            run_dir=tmp_path / "outer",
            on={"step": lambda run: run.step == 7 and fit(run_dir=tmp_path / "inner", on=press(3, times))},
        )
    assert steps_of(tmp_path / "inner")[-1] == (3 if times == 1 else 0)
    assert steps_of(tmp_path / "outer")[-1] == (7 if times == 1 else 5)
    assert ("Stopped after step 7" in str(caught.value)) == (times == 1)


@pytest.mark.parametrize("progress", [True, False])
def test_a_changed_script_is_told_once(tmp_path, monkeypatch, capsys, progress):
    fit(make(), run_dir=tmp_path, epochs=1)
    load = cograd.Joint.load_state_dict

    def warning(self, state):
        warnings.warn("lr/net is 0.2 in the checkpoint and 0.1 here; 0.2 is used.", stacklevel=2)
        load(self, state)

    monkeypatch.setattr(cograd.Joint, "load_state_dict", warning)
    if progress:
        fit(make(), run_dir=tmp_path, epochs=2, progress=True)
        assert capsys.readouterr().out.count("0.2 is used") == 1
    else:
        with pytest.warns(UserWarning, match="0.2 is used") as caught:
            fit(make(), run_dir=tmp_path, epochs=2)
        assert len(caught) == 1
