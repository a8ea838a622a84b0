"""A run as a checkpoint holds it: taken, compared, and continued."""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cograd.errors import LoaderError, StateError, report, shown
from cograd.training._stopping import Criterion
from cograd.training._world import set_world_state, world_state
from cograd.training.loggers import Logger

if TYPE_CHECKING:
    from cograd.training._session import Session

FORMAT = 1


def state_of(session: Session) -> dict[str, Any]:
    """Everything that the rest of the run depends on, as plain tensors, numbers, strings and containers."""
    run = session.run
    return {
        "fit": FORMAT,
        "joint": run.joint.state_dict(),
        "batches": session.options.batches.state_dict(),
        "world": world_state(),
        "step": run.step,
        "epoch": run.epoch,
        "epoch_began": session.epoch_began,
        "validated": session.validated,
        "values": dict(run.values),
        "history": run.history.state_dict(),
        "window": session.window.state_dict(),
        "seconds": session.elapsed(),
        "skipped": list(session.skipped),
        "best": _best(session),
        "stop": None if session.stop is None else _criterion_state(session.stop),
        "freeze": {name: _criterion_state(criterion) for name, criterion in session.freeze.items()},
        "finished": session.finished,
        "loggers": {
            name: logger.state_dict() for name, logger in _by_name(session.loggers) if hasattr(logger, "state_dict")
        },
    }


def load(session: Session, state: Mapping[str, Any], path: Path, own: bool) -> None:
    """Continue ``state``; or, if it is of another configuration, change nothing.

    Args:
        session: a new one.
        state: from a checkpoint.
        path: the checkpoint, for messages.
        own: it is of the run directory itself, so that its logs are those of this run.

    Raises:
        StateError: lists every difference.
    """
    if state.get("fit") != FORMAT:
        raise StateError(
            f"{path} is no checkpoint of fit in format {FORMAT}; found {shown(state.get('fit'))}. Use the version of "
            "cograd that wrote it, or another run_dir."
        )
    run, joint = session.run, session.run.joint
    problems = list(_differences(session, state))
    before = copy.deepcopy(joint.state_dict()) if problems else None
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            joint.load_state_dict(state["joint"])
    except StateError as error:
        problems.append(str(error))
    else:
        if before is not None:
            joint.load_state_dict(before)
    if problems:
        raise StateError(
            f"{path} is of another configuration, and nothing was loaded. {report(problems)} "
            "Run what it was made with, or choose another run_dir."
        )
    session.changes = [str(warning.message) for warning in caught]
    run.step, run.epoch, session.epoch_began = state["step"], state["epoch"], state["epoch_began"]
    session.validated = state["validated"]
    run.values.update(state["values"])
    run.history.load_state_dict(state["history"])
    session.window.load_state_dict(state["window"])
    session.seconds, session.skipped, session.finished = state["seconds"], list(state["skipped"]), state["finished"]
    if session.stop is not None:
        _continue(session.stop, state["stop"])
    for name, criterion in session.freeze.items():
        _continue(criterion, state["freeze"].get(name))
    for name, logger in _by_name(session.loggers):
        if own and name in state["loggers"] and hasattr(logger, "load_state_dict"):
            logger.load_state_dict(state["loggers"][name])
    if own:
        run.checkpoint = path
    set_world_state(state["world"])


def still_over(session: Session, state: Mapping[str, Any]) -> bool:
    """Whether a run that was finished is so under what is asked for now, too."""
    if state["finished"] == "stop":
        return session.stop is not None and bool(state["stop"]) and repr(session.stop) == state["stop"]["is"]
    return bool(state["finished"] == "callback")


def _differences(session: Session, state: Mapping[str, Any]) -> Iterator[str]:
    if _best(session) != state["best"]:
        yield f"best is {_words(_best(session))}; the run has {_words(state['best'])}."
    try:
        session.options.batches.load_state_dict(state["batches"])
    except (StateError, LoaderError) as error:
        yield str(error)


def _best(session: Session) -> list[Any] | None:
    options = session.options
    return None if options.best is None else [options.best, "max" if options.higher_is_better else "min"]


def _words(best: Sequence[Any] | None) -> str:
    return "none" if best is None else f"({best[0]!r}, {best[1]!r})"


def _criterion_state(criterion: Criterion) -> dict[str, Any]:
    return {"is": repr(criterion), "state": criterion.state_dict()}


def _continue(criterion: Criterion, saved: Mapping[str, Any] | None) -> None:
    """Go on counting; a criterion that is not the one of before begins anew."""
    if saved is not None and saved["is"] == repr(criterion):
        criterion.load_state_dict(saved["state"])


def _by_name(loggers: Sequence[Logger]) -> Iterator[tuple[str, Any]]:
    """JSONL, CSV, CSV 2."""
    seen: Counter[str] = Counter()
    for logger in loggers:
        kind = type(logger).__name__
        seen[kind] += 1
        yield kind if seen[kind] == 1 else f"{kind} {seen[kind]}", logger
