"""Run an unchanged script under the recorder, and say what is wrong with its gradients."""

from __future__ import annotations

import contextlib
import os
import runpy
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from cograd.diagnosis._finding import Finding
from cograd.diagnosis._registry import every, findings
from cograd.diagnosis._report import Report, routes
from cograd.diagnosis._suppress import fingerprint, suppressed
from cograd.tracing import Log, Recorder, recording

_OURS = str(Path(__file__).parents[1])


class _Enough(BaseException):
    """The number of steps that was asked for has been made."""


@dataclass(frozen=True, slots=True)
class Run:
    """A script that was run.

    Attributes:
        log: what happened.
        steps: optimizer steps that it made.
        code: its own exit code.
        variables: its global variables, where it ran to its end.
    """

    log: Log
    steps: int
    code: int
    variables: Mapping[str, Any]


def run(
    target: str, arguments: Sequence[str] = (), *, module: bool = False, steps: int | None = None,
    stdout: TextIO | None = None, timed: bool = False,
) -> Run:  # fmt: skip
    """Run a script as ``python`` would, and record it.

    Args:
        target: path of the script, or name of the module.
        arguments: what the script finds in ``sys.argv``, after its own name.
        module: whether ``target`` is a module.
        steps: stop after so many optimizer steps; None to run to the end.
        stdout: where the script prints; None for where it would.
        timed: also measure what gradients cost that no step applies, which takes a few extra passes.
    """
    recorder = Recorder(timed=timed)

    def enough(made: int) -> None:
        if steps is not None and made >= steps:
            raise _Enough

    outcome, code, error, variables = "finished", 0, None, dict[str, Any]()
    recorder.on_step = None if steps is None else enough
    with _as_main(target, arguments, module), contextlib.redirect_stdout(stdout or sys.stdout):
        try:
            with recording(recorder):
                if module:
                    variables = runpy.run_module(target, run_name="__main__", alter_sys=True)
                else:
                    variables = runpy.run_path(target, run_name="__main__")
        except _Enough:
            outcome = "stopped"
        except KeyboardInterrupt:
            outcome, code = "interrupted", 130
        except SystemExit as stop:
            code = _exit_code(stop)
        except BaseException as raised:
            outcome, code, error = "raised", 1, raised
    log = recorder.finish(outcome, error, variables)
    if error is not None:
        print_traceback(error)
    return Run(log, recorder.journal.steps, code, variables)


@contextlib.contextmanager
def _as_main(target: str, arguments: Sequence[str], module: bool) -> Iterator[None]:
    argv, path = sys.argv, sys.path[:]
    sys.argv = [target, *arguments]
    sys.path.insert(0, os.getcwd() if module else str(Path(target).resolve().parent))
    try:
        yield
    finally:
        sys.argv = argv
        sys.path[:] = path


def _exit_code(stop: SystemExit) -> int:
    if stop.code is None or isinstance(stop.code, int):
        return stop.code or 0
    print(stop.code, file=sys.stderr)
    return 1


def print_traceback(error: BaseException) -> None:
    """The traceback as the script alone would have printed it."""
    sys.stdout.flush()
    error.__traceback__ = _of_the_script(error.__traceback__)
    traceback.print_exception(error)


def _of_the_script(trace: TracebackType | None) -> TracebackType | None:
    if trace is None:
        return None
    rest = _of_the_script(trace.tb_next)
    file = trace.tb_frame.f_code.co_filename
    if file.startswith((_OURS, "<frozen runpy")):
        return rest
    return TracebackType(rest, trace.tb_frame, trace.tb_lasti, trace.tb_lineno)


def diagnose(
    ran: Run,
    *,
    select: Sequence[str] = (),
    ignore: Sequence[str] = (),
    baseline: set[tuple[str, str, str]] | None = None,
    why: bool = False,
    perf: bool = False,
) -> Report:
    """The report on a run.

    Args:
        ran: what was run.
        select: only these rules; all if empty.
        ignore: not these.
        baseline: findings that are known already.
        why: also say, for each loss, where the gradient to a model is cut on which it depends.
        perf: also report work that is done and thrown away; with its time, if the run was ``timed``.
    """
    found: list[Finding] = [
        f
        for f in findings(ran.log, select, ignore, perf=perf)
        if not suppressed(f) and fingerprint(f) not in (baseline or ())
    ]
    unchecked = [f"{rule}: {why}" for rule, why in ran.log.unchecked.items()]
    if ran.log.unfollowed:
        blind = [r.name for r in every().values() if r.follows and (perf or not r.perf)]
        unchecked.append(f"{', '.join(blind)}: {ran.log.unfollowed}")
    unchecked += [f"the recorder failed, so findings may be missing: {failure}" for failure in ran.log.failures]
    return Report(tuple(found), routes(ran.log, why=why), ran.steps, ran.log.outcome, tuple(unchecked))
