"""Where a run begins: anew, where it was stopped, or from a checkpoint of another run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cograd.errors import CheckpointError, LogFileError, TrainingError
from cograd.training._checkpoint import NAME, CheckpointFile, UnusableError, read
from cograd.training._checkpoints import Checkpoints
from cograd.training._saved import load, still_over
from cograd.training._session import Session
from cograd.training.loggers import CSV, JSONL


def resumed(session: Session) -> bool:
    """Load what there is to continue, if anything is.

    Returns:
        Whether the run was finished, and is so under what is asked for now; or has gone beyond it.

    Raises:
        TrainingError: what is there does not go with ``resume``.
        StateError: it is of another configuration. Nothing was loaded.
    """
    options, run = session.options, session.run
    own = session.checkpoints.newest() if session.checkpoints else None
    if own is not None:
        _check_own(options.resume, own[1])
    elif options.resume == "must":
        raise TrainingError(
            f"resume='must', but {options.run_dir} holds no checkpoint. Check the path; resume='auto' begins a new run."
        )
    found = own or (_read(options.resume) if isinstance(options.resume, Path) else None)
    if found is None:
        return False
    state, path = found
    load(session, state, path, own=own is not None)
    if session.checkpoints:
        session.checkpoints.tidy()
    session.origin = path
    if session.finished is None:
        run.history.stopped_by = run.stopped_by = _beyond(session)
        return run.stopped_by is not None
    was, session.finished = session.finished, None
    if not still_over(session, state):
        session.limits()
        if run.stopped_by is None:
            run.history.stopped_by = None
            return False
    session.finished, run.stopped_by = was, run.history.stopped_by
    return True


def _beyond(session: Session) -> str | None:
    """In words, if more is done than is asked for: then there is no end to be written."""
    run, options = session.run, session.options
    if options.steps is not None and run.step > options.steps:
        return f"{run.step} steps done, {options.steps} asked for"
    if options.epochs is not None and (run.epoch, run.step) > (options.epochs, session.epoch_began):
        asked = f"{options.epochs} epoch{'s' * (options.epochs > 1)} asked for"
        return f"{run.epoch} epoch{'s' * (run.epoch > 1)} and {run.step} steps done, {asked}"
    return None


def check_logs(session: Session) -> None:
    """A run that begins overwrites no log. One that was killed before its first checkpoint has logged nothing.

    Raises:
        LogFileError: there is a log, and no checkpoint that it belongs to; or a log cannot be read.
    """
    run_dir, checkpoints = session.options.run_dir, session.checkpoints
    if run_dir is None or checkpoints is None:
        return
    for logger in session.loggers:
        if isinstance(logger, JSONL | CSV) and (log := logger.found(run_dir)) and not checkpoints.any():
            raise LogFileError(
                f"{log} holds lines of a run without checkpoints, which a new run would overwrite. Move it, or choose "
                "another run_dir."
            )


def _check_own(resume: str | Path, newest: Path) -> None:
    if resume == "never":
        raise TrainingError(
            f"resume='never', but there is a run in {newest.parent.parent} ({newest.name}). Choose another run_dir, "
            "or resume='auto' to continue it."
        )
    if isinstance(resume, Path) and resume.resolve().parent == newest.parent.resolve() and resume.name != newest.name:
        raise TrainingError(
            f"resume={str(resume)!r} would go back behind {newest.name} of the same run, and overwrite it. Choose "
            "another run_dir to begin with this checkpoint."
        )


def _read(path: Path) -> tuple[dict[str, Any], Path]:
    """The state in a checkpoint, or in the newest one of another run."""
    if path.is_dir():
        inside = path / "checkpoints"
        found = Checkpoints(inside if inside.is_dir() else path).newest()
        if found is None:
            raise CheckpointError(
                f"There is no checkpoint in {path}. Give the run_dir of a run, or a checkpoint of it."
            )
        return found
    name = NAME.fullmatch(path.name)
    if name is None:
        raise CheckpointError(
            f"{path} is no checkpoint by its name, which is that under which fit saved it: step-00001200-<hash>.pt. "
            "The hash tells whether the file is whole."
        )
    try:
        return read(CheckpointFile(int(name[2]), name[1], name[3], path))["state"], path
    except UnusableError as error:
        raise CheckpointError(f"{path} {error}. Use another checkpoint.") from error
