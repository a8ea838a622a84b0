"""fit: the loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from os import PathLike
from types import TracebackType
from typing import Any

import torch

from cograd._joint import Joint
from cograd.errors import LogFileError, NonFiniteLossError
from cograd.training._history import History
from cograd.training._interrupt import interruptible, with_deaf_workers
from cograd.training._options import Every, every, parse_options
from cograd.training._progress import progress as progress_of
from cograd.training._progress import say
from cograd.training._resume import check_logs, resumed
from cograd.training._run import Callback
from cograd.training._session import Session
from cograd.training._stopping import Criterion
from cograd.training._validation import Validation
from cograd.training._world import kept_world
from cograd.training.loggers import Logger


def fit(
    joint: Joint,
    loader: Iterable[Any],
    *,
    epochs: int | None = None,
    steps: int | None = None,
    validate: Callable[[Joint], Mapping[str, Any]] | Iterable[Any] | Validation | None = None,
    validate_every: Every = "epoch",
    stop: Criterion | None = None,
    freeze: Mapping[str, Criterion] | None = None,
    run_dir: str | PathLike[str] | None = None,
    resume: str | PathLike[str] = "auto",
    save_every: Every = "epoch",
    keep: int = 3,
    best: str | tuple[str, str] | None = None,
    loggers: Sequence[Logger] = (),
    log_every: int = 50,
    progress: bool = True,
    on: Mapping[str, Callback | Sequence[Callback]] | None = None,
    device: torch.device | str | None = None,
    non_finite: str = "raise",
) -> History:
    """Train ``joint`` on the batches of ``loader``, and come back to life where it was killed.

    With a ``run_dir``, the same command continues a run that was stopped at any moment, and ends with the
    parameters, the optimizers, the best checkpoint and the logs that it would have had, to the last bit.
    An empty ``run_dir`` begins a run; a finished one only loads what it ended with.

    Values have names: ``loss/<loss>``, ``weight/<loss>``, ``grad_norm/<model>`` (means since the last
    log), ``lr/<optimizer>``, and ``val/<name>`` for what the validation gives.

    Args:
        joint: models, losses and optimizers.
        loader: any iterable of batches. An iterator is one epoch.
        epochs: how often to go through it.
        steps: how many batches to train on; whichever of the two comes first.
        validate: a function ``f(joint)`` that returns name -> number; a loader, for the mean of each loss; or
            ``cograd.Validation``. Also done once at the end. It changes nothing of the training.
        validate_every: ``"epoch"``, or a number of steps.
        stop: ``cograd.Plateau``, ``MaxSteps``, ``TimeLimit`` or ``Target``, combined with ``|``.
        freeze: model -> when it is done: it is frozen then, and the others go on.
        run_dir: where checkpoints and ``log.jsonl`` go. Without one nothing is written.
        resume: ``"auto"``: continue what is in ``run_dir``, if anything is. ``"must"``: there must be something.
            ``"never"``: there must not. A checkpoint's path: what a new ``run_dir`` begins with.
        save_every: ``"epoch"``, or a number of steps; None for the beginning and the end only. A new best value is
            saved at once.
        keep: how many checkpoints are kept, beside the best.
        best: which value of the validation decides: ``"val/digit"`` if it should be low, ``("val/accuracy", "max")``
            if high.
        loggers: such as ``cograd.training.loggers.TensorBoard()``.
        log_every: steps between two logs.
        progress: show how it goes.
        on: event -> function, or several, of one argument, the ``Run``. Events: ``"start"``, ``"step"``,
            ``"validation"``, ``"epoch"``, ``"checkpoint"``, ``"finish"``.
        device: where batches go; by default to the GPU where the models are.
        non_finite: ``"raise"``, or ``"skip"`` to leave out batches whose loss is NaN or infinite, ten in a row at most.

    Returns:
        Every logged value of the whole run, why it ended, and its best.

    Raises:
        TrainingError: the arguments do not hold together; lists every problem. Nothing was touched.
        StateError: ``run_dir`` holds a run of another configuration. Nothing was touched.
        CheckpointError: the first or the last checkpoint cannot be written. One between is only reported.
        LogFileError: a log is none, or there was no room for its last lines. Others wait for room.
        BatchError: the losses function, or a backward pass, fails on a batch; says what is in it.
        KeyboardInterrupt: after Ctrl-C, when the step in flight is done and saved. A second one interrupts at once.

    >>> net = nn.Linear(2, 1)
    >>> joint = cograd.Joint(
    ...     models={"net": net},
    ...     losses=lambda m, x: {"sum": (m.net(x)[:, 0] - x.sum(1)).square().mean()},
    ...     optimizers=torch.optim.SGD(net.parameters(), lr=0.1),
    ... )
    >>> batches = [torch.randn(8, 2) for _ in range(50)]
    >>> history = cograd.fit(joint, batches, epochs=10, validate=batches[:5], progress=False)
    >>> history.stopped_by, history["val/sum"].last < 1e-6
    ('10 epochs done', True)
    """
    session = Session(joint, parse_options(joint, loader, locals()))
    options, run = session.options, session.run
    check_logs(session)
    with session.checkpoints or nullcontext():
        if resumed(session):
            say(options.progress, f"finished earlier: {run.stopped_by}; nothing to do")
            return run.history
        with _logging(session), _showing(session), interruptible(options.progress) as session.interrupt:
            session.start()
            train, batches, add, show = joint.step, options.batches, session.window.add, session.show.step
            on_step, latest, interrupt = options.on.get("step", ()), session.latest, session.interrupt
            timed, last = session.timed, options.steps
            log_every, validate_every, save_every = map(every, (options.log_every, validate_every, save_every))
            while not session.over:
                for batch in with_deaf_workers(batches):
                    if run.stopped_by is not None:
                        break  # the loader gives more than it said
                    try:
                        report = train(batch)
                    except NonFiniteLossError as error:
                        session.leave_out(error, batch)
                        continue
                    except Exception as error:
                        session.blame(error, batch)
                        raise
                    run.report = report
                    run.step += 1
                    add(report)
                    if on_step:
                        session.call("step")
                    show(run.step, run.epoch, latest)
                    if run.step % log_every == 0:
                        session.log()
                    if run.step % validate_every == 0:
                        session.validate()
                    perhaps = timed or interrupt.asked or run.stopped_by is not None or run.step == last
                    if perhaps and session.look():
                        break
                    if run.step % save_every == 0 or session.improved:
                        session.save()
                else:
                    session.end_epoch()
            session.finish()
    return run.history


@contextmanager
def _logging(session: Session) -> Iterator[None]:
    """Start the loggers, and finish those that were started, whatever happens."""
    run, options = session.run, session.options
    config = {
        "joint": repr(run.joint),
        "epochs": options.epochs,
        "steps": options.steps,
        "stop": None if options.stop is None else repr(options.stop),
        "freeze": {name: repr(criterion) for name, criterion in options.freeze.items()},
        "device": str(options.device),
        "torch": torch.__version__,
    }
    with ExitStack() as stack:
        with kept_world() if run.step else nullcontext():  # what a tracker draws would shift what a resumed run draws
            for logger in session.loggers:
                logger.start(run.run_dir, config, run.step)
                stack.push(partial(_finish, logger))
        yield


def _finish(
    logger: Logger, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
) -> None:
    try:
        logger.finish()
    except LogFileError as lost:
        if error is None:
            raise
        error.add_note(f"Besides, {lost}")


@contextmanager
def _showing(session: Session) -> Iterator[None]:
    options, run = session.options, session.run
    length = options.batches.length
    of_epochs = None if length is None or options.epochs is None else length * options.epochs
    total = min((n for n in (of_epochs, options.steps) if n is not None), default=None)
    with progress_of(options.progress, total, options.epochs, run.step) as session.show:
        yield
