"""What ``fit`` does between two steps: log, validate, decide, save."""

from __future__ import annotations

import copy
import math
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, final

from cograd._joint import Joint
from cograd._schedule_free import in_training, switchable
from cograd.errors import CheckpointError, LogFileError, NonFiniteLossError, TrainingError, UnknownValueError, unknown
from cograd.training._blame import blame
from cograd.training._checkpoints import Checkpoints
from cograd.training._history import Best
from cograd.training._interrupt import Interrupt
from cograd.training._options import Options
from cograd.training._progress import Show
from cograd.training._run import Run
from cograd.training._saved import state_of
from cograd.training._stopping import Criterion
from cograd.training._validation import validate
from cograd.training._window import Window, named
from cograd.training._world import kept_world
from cograd.training.loggers import JSONL, Logger

PATIENCE = 10  # batches in a row that may be left out, since their losses are not finite


@final
class Session:
    """One call of ``fit``.

    Attributes:
        options: what was asked for.
        run: what callbacks see.
        window: the steps since the last log.
        checkpoints: where the state goes; None without a run directory.
        loggers: where the values go.
        stop, freeze: the criteria, copied, since they count; of the models that are not frozen yet.
        seconds: time in training before this call.
        skipped: batches that were left out; those in a row; the step after which they were.
        finished: what ended the run: "limit", "stop" or "callback"; None while it goes on.
        improved: the best value is new, and its checkpoint not yet written.
        timed: whether a criterion wants to be asked after each step.
        epoch_began: steps that were done when the current epoch began.
        validated: after which step the last validation was.
    """

    def __init__(self, joint: Joint, options: Options) -> None:
        self.options = options
        self.run = Run(joint, run_dir=options.run_dir)
        self.window = Window()
        self.checkpoints = _checkpoints(options)
        self.loggers = _loggers(options)
        self.stop = None if options.stop is None else _copied("stop", options.stop)
        self.freeze = {name: _copied(f"freeze[{name!r}]", criterion) for name, criterion in options.freeze.items()}
        self.seconds, self._began = 0.0, time.perf_counter()
        self.skipped = [0, 0, 0]
        self.finished: str | None = None
        self.improved = False
        self.epoch_began = 0
        self.interrupt = Interrupt()
        self.origin: Path | None = None  # the checkpoint that this call has begun with
        self.changes: list[str] = []  # in what the script is no longer the one that was saved
        self.show: Show
        self.timed = self.stop is not None or bool(self.freeze)
        self.validated = -1
        self._saved: tuple[int, int, int] | None = None  # the position of the last checkpoint
        self._failed: CheckpointError | LogFileError | None = None
        self._unlogged = False  # there was no room for the last line of a log
        self._checked: set[str] = set()  # the kinds of values whose names have been checked

    def elapsed(self) -> float:
        """Seconds in training, earlier parts of the run included."""
        return self.seconds + time.perf_counter() - self._began

    def call(self, event: str) -> None:
        """Call the functions of the user."""
        functions = self.options.on.get(event)
        if not functions:
            return
        try:
            for function in functions:
                function(self.run)
        except KeyboardInterrupt:  # of a fit in the callback, which was interrupted together with this one
            if not self.interrupt.asked or self.interrupt.insisted:
                raise
        except Exception as error:
            error.add_note(f"This was in a callback of {event!r}, {self._where()}.")
            raise
        self._all_frozen()

    def latest(self) -> dict[str, float]:
        """What the last step reported, as numbers."""
        report = self.run.report
        return {} if report is None else {name: float(value) for name, value in named(report).items()}

    @property
    def over(self) -> bool:
        """Whether there is nothing left to do but to finish, or to be interrupted."""
        return self.run.stopped_by is not None or self.interrupt.asked

    def look(self) -> bool:
        """After a step that may be the last: is it time to leave the epoch?"""
        run, options = self.run, self.options
        if self.timed:
            self._decide({})
        if run.step == options.steps:
            self.limits()
        if run.stopped_by is None:
            return self.interrupt.asked
        return self.interrupt.asked or options.batches.index != options.batches.length  # else let the epoch end

    def limits(self) -> None:
        """Stop if as much is done as was asked for."""
        run, epochs, steps = self.run, self.options.epochs, self.options.steps
        if epochs is not None and run.epoch >= epochs:
            self._end("limit", f"{epochs} epoch{'s' * (epochs > 1)} done")
        if steps is not None and run.step >= steps:
            self._end("limit", f"{steps} step{'s' * (steps > 1)} done")
        self._all_frozen()

    def _all_frozen(self) -> None:
        if not any(_trainable(self.run.joint)):
            self._end("limit", "every model is frozen")

    def blame(self, error: Exception, batch: Any) -> None:
        """A step has failed: say on which batch."""
        blame(error, batch, f"step {self.run.step + 1}, in epoch {self.run.epoch + 1}")

    def leave_out(self, error: NonFiniteLossError, batch: Any) -> None:
        """A batch with a loss that is not finite."""
        if self.options.non_finite == "raise":
            self.blame(error, batch)
            raise error
        total, row, step = self.skipped
        self.skipped = [total + 1, row + 1 if step == self.run.step else 1, self.run.step]
        if self.skipped[1] > PATIENCE:
            error.add_note(f"These were {self.skipped[1]} such batches in a row, so the training has gone astray.")
            raise error
        self.run.report = None
        self.show.note(f"left out a batch after step {self.run.step}: {error}")

    def log(self) -> None:
        """The means since the last log."""
        if not self.window:
            return
        values = self.window.means() | _learning_rates(self.run.joint)
        if self.skipped[0]:
            values["skipped"] = float(self.skipped[0])
        self._check_names(values, "log")
        self._take(values)

    def validate(self) -> None:
        """Look at other data."""
        if self.options.measure is None:
            return
        try:
            values = validate(self.options.measure, self.run.joint, self.options.device)
        except Exception as error:
            error.add_note(f"This was in the validation {self._where()}.")
            raise
        self.validated = self.run.step
        self._check_names(values, "val")
        self._rank(values)
        self._take(values)
        self.show.validated(values, self.run.step)
        self.call("validation")

    def end_epoch(self) -> None:
        """All batches of an epoch were used."""
        run = self.run
        run.epoch = run.history.epochs = self.options.batches.epoch
        run.joint.flush()
        if self.options.validate_every == "epoch":
            self.validate()
        run.joint.end_epoch({name: s.last for name, s in run.history.items() if s.steps[-1] > self.epoch_began})
        self.epoch_began = run.step
        self.call("epoch")
        self.limits()
        if not self.over and (self.options.save_every == "epoch" or self.improved):
            self.save()

    def start(self) -> None:
        """Before the first step of this call."""
        run = self.run
        if self.origin is not None:
            self.show.note(f"continuing from step {run.step} ({self.origin.name})")
        for change in self.changes:
            if self.options.progress:
                self.show.note(change)
            else:
                warnings.warn(change, stacklevel=3)
        for name in run.joint.frozen:
            self.freeze.pop(name, None)
        for optimizer in switchable(run.joint.optimizers.values()):
            if not in_training(optimizer):
                optimizer.train()
        with kept_world() if run.step else nullcontext():
            self.call("start")
        self.limits()
        if run.checkpoint is None:
            # before anything is logged: a run which is killed early is the same run, and a full disk is noticed now
            self.save()

    def finish(self) -> None:
        """The loop is left: the run is over for good, or interrupted.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed.
            CheckpointError: the last checkpoint cannot be written.
            LogFileError: there is no room for the last lines of a log.
        """
        run = self.run
        if run.stopped_by is not None:
            run.joint.flush()
            self.log()
            if self.validated != run.step:
                self.validate()
            self.finished = self.finished or "callback"
            run.history.stopped_by = run.stopped_by
        self.save()
        if run.stopped_by is not None:
            self.call("finish")
            self.show.note(f"finished: {run.stopped_by}")
        if self.interrupt.asked:
            path = run.checkpoint
            kept = f"the same command continues from {path}" if path else "nothing is saved, for there is no run_dir"
            raise KeyboardInterrupt(f"Stopped after step {run.step}; {kept}.") from self._failed
        if self._failed is not None:
            raise self._failed

    def _take(self, values: Mapping[str, float]) -> None:
        run = self.run
        run.values.update(values)
        run.history.add(values, run.step)
        line = {"epoch": run.epoch, **values, "seconds": self.elapsed()}
        full: LogFileError | None = None
        for logger in self.loggers:
            try:
                logger.log(line, run.step)
            except LogFileError as error:
                if error.errno is None:  # it is not the disk
                    raise
                full = error
        if full is not None and not self._unlogged:
            self.show.note(f"NOT LOGGED, training goes on, and the lines wait for room: {full}")
            warnings.warn(f"A line of step {run.step} waits for room, training goes on. {full}", stacklevel=4)
        self._unlogged = full is not None
        self._decide(values)

    def _decide(self, values: Mapping[str, float]) -> None:
        """Freeze models and stop, where a criterion says so."""
        run, seconds = self.run, self.elapsed()
        for name, criterion in list(self.freeze.items()):
            if why := self._asked(f"freeze[{name!r}]", criterion, values, seconds):
                del self.freeze[name]
                run.joint.freeze(name)
                self.show.note(f"{name} is frozen at step {run.step}: {why}")
                self.limits()
        if self.stop is not None and (why := self._asked("stop", self.stop, values, seconds)):
            self._end("stop", why)

    def _asked(self, name: str, criterion: Criterion, values: Mapping[str, float], seconds: float) -> str | None:
        try:
            why: object = criterion.check(values, self.run.step, seconds)
        except Exception as error:
            error.add_note(f"This was in the criterion {name}={criterion!r}, {self._where()}.")
            raise
        if why is not None and not isinstance(why, str):
            raise TrainingError(
                f"{name}={criterion!r} must say why to stop in words, or None to go on; its check returned {why!r}."
            )
        return why

    def _where(self) -> str:
        return f"after step {self.run.step}; epochs completed: {self.run.epoch}"

    def _end(self, kind: str, why: str) -> None:
        if self.run.stopped_by is None:
            self.finished = kind
            self.run.stop(why)

    def _rank(self, values: Mapping[str, float]) -> None:
        metric, best = self.options.best, self.run.history.best
        if metric is None or math.isnan(value := values.get(metric, math.nan)):  # absent: not measured
            return
        if best is None or (value > best.value if self.options.higher_is_better else value < best.value):
            self.run.history.best = Best(metric, value, self.run.step)
            self.improved = True

    def _check_names(self, values: Mapping[str, float], kind: str) -> None:
        """The first time that values of this kind are there: are all among them that somebody looks at?"""
        if kind in self._checked:
            return
        self._checked.add(kind)
        known = {*values}
        if kind == "log":  # a loss may be absent, and a phase not yet due
            known |= {f"{what}/{name}" for what in ("loss", "weight") for name in self.run.joint.state_dict()["losses"]}
            known |= {f"metric/{name}" for update in self.run.joint.updates_now() for name in update.setup.metrics}
            if any(name.startswith("grad_norm/") for name in values):
                known |= {f"grad_norm/{name}" for name in self.run.joint.updates}
        for who, name in self.options.wanted:
            if name.startswith("val/") == (kind == "val") and name not in known:
                raise UnknownValueError(
                    f"{who} monitors {name!r}, which was never logged. {unknown('values', name, known)}"
                )

    def save(self) -> None:
        """Write a checkpoint. A disk that is full must not end a training that may have time to make room."""
        position = (self.run.step, self.run.epoch, self.options.batches.index)
        if self.checkpoints is None or (position == self._saved and not self.finished):
            return
        best = self.options.best
        seen = None if best is None else self.run.history.get(best)
        values = {best: seen.last} if best is not None and seen is not None and seen.steps[-1] == self.run.step else {}
        try:
            path = self.checkpoints.save(state_of(self), self.run.step, values)
        except (CheckpointError, LogFileError) as error:
            if error.errno is None or self.run.checkpoint is None:  # it is not the disk, or nothing is lost yet
                raise
            self._failed, self.improved = error, False
            if self.over:  # the last one: finish raises
                self.show.note(f"NOT SAVED: {error}")
                return
            self.show.note(f"NOT SAVED, training goes on: {error}")
            warnings.warn(f"No checkpoint was written at step {self.run.step}, training goes on. {error}", stacklevel=3)
            return
        self._saved, self._failed, self.improved = position, None, False
        self.run.checkpoint = path
        with kept_world():  # what a callback draws here would not be drawn again by a resumed run
            self.call("checkpoint")


def _copied(name: str, criterion: Criterion) -> Criterion:
    try:
        return copy.deepcopy(criterion)
    except Exception as error:
        raise TrainingError(
            f"{name}={criterion!r} counts, so fit takes a copy, and it cannot be copied: {error} Let it hold plain "
            "numbers only."
        ) from error


def _checkpoints(options: Options) -> Checkpoints | None:
    if options.run_dir is None:
        return None
    return Checkpoints(options.run_dir / "checkpoints", options.keep, options.best, options.higher_is_better)


def _loggers(options: Options) -> tuple[Logger, ...]:
    """Those that were given, and JSONL wherever there is a place for it."""
    has_one = any(isinstance(logger, JSONL) for logger in options.loggers)
    own = () if has_one or options.run_dir is None else (JSONL(),)
    return (*own, *options.loggers)


def _learning_rates(joint: Joint) -> dict[str, float]:
    rates: dict[str, float] = {}
    for name, optimizer in joint.optimizers.items():
        groups = enumerate(optimizer.param_groups)
        each = {i: float(group["lr"]) for i, group in groups if group.get("lr") is not None}  # Adafactor finds its own
        if len(set(each.values())) == 1:
            rates[f"lr/{name}"] = next(iter(each.values()))
        else:
            rates |= {f"lr/{name}/{i}": rate for i, rate in each.items()}
    return rates


def _trainable(joint: Joint) -> Iterator[bool]:
    return (p.requires_grad for name in joint.models for p in joint.models[name].parameters())
