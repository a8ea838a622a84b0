"""What ``fit`` was asked for, checked at the door: every problem in one report, nothing touched."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, final

import torch

from cograd._arity import misfit
from cograd._joint import Joint
from cograd.errors import LoaderError, TrainingError, report, shown, unknown
from cograd.training._batches import Batches
from cograd.training._run import EVENTS, Callback
from cograd.training._stopping import Criterion
from cograd.training._validation import Measure, parse_validate
from cograd.training.loggers import Logger

NEVER = 2**63  # "every so many steps" for what happens at the end of an epoch
_RESUME = "'auto', 'must', 'never', or the path of a checkpoint or of a run_dir to begin with"
Every = int | Literal["epoch"] | None


@final
@dataclass(frozen=True, slots=True)
class Options:
    """The arguments of ``fit``, in the form in which the loop uses them."""

    batches: Batches
    epochs: int | None
    steps: int | None
    measure: Measure | None
    validate_every: Every
    stop: Criterion | None
    freeze: Mapping[str, Criterion]
    run_dir: Path | None
    resume: str | Path
    save_every: Every
    keep: int
    best: str | None
    higher_is_better: bool
    loggers: Sequence[Logger]
    log_every: int
    progress: bool
    on: Mapping[str, Sequence[Callback]]
    device: torch.device | None
    non_finite: str

    @property
    def wanted(self) -> Iterator[tuple[str, str]]:
        """What asks for a value, and the value's name."""
        if self.stop is not None:
            yield from (("stop", name) for name in self.stop.metrics)
        for model, criterion in self.freeze.items():
            yield from ((f"freeze[{shown(model)}]", name) for name in criterion.metrics)
        if self.best is not None:
            yield "best", self.best


def every(interval: Every) -> int:
    """How many steps lie between two; ``NEVER`` if they are not counted in steps."""
    return interval if isinstance(interval, int) else NEVER


def parse_options(joint: Any, loader: Any, given: Mapping[str, Any]) -> Options:
    """Check all arguments of ``fit``.

    Raises:
        TrainingError: lists every problem.
        LoaderError: the loader gives no batches.
    """
    if not isinstance(joint, Joint):
        raise TrainingError(f"fit trains a cograd.Joint; found {type(joint).__name__}. Make one of models and losses.")
    problems: list[str] = []

    def checked(parse: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return parse(*arguments)
        except TrainingError as error:
            problems.append(str(error))
            return None

    best = checked(_best, given["best"])
    options = {
        "epochs": checked(_count, "epochs", given["epochs"]),
        "steps": checked(_count, "steps", given["steps"]),
        "measure": checked(parse_validate, given["validate"]),
        "validate_every": checked(_every, "validate_every", given["validate_every"]),
        "stop": checked(_criterion, "stop", given["stop"]),
        "freeze": checked(_freeze, joint, given["freeze"]) or {},
        "run_dir": checked(_run_dir, given["run_dir"]),
        "resume": checked(_resume, given["resume"], given["run_dir"]),
        "save_every": checked(_every, "save_every", given["save_every"]),
        "keep": checked(_count, "keep", given["keep"]),
        "best": best and best[0],
        "higher_is_better": bool(best and best[1]),
        "loggers": checked(_loggers, given["loggers"], given["run_dir"]) or (),
        "log_every": checked(_count, "log_every", given["log_every"]),
        "progress": checked(_flag, "progress", given["progress"]),
        "on": checked(_callbacks, given["on"]) or {},
        "device": checked(_device, joint, given["device"]),
        "non_finite": checked(_one_of, "non_finite", given["non_finite"], ("raise", "skip")),
    }
    problems += [
        f"{name} must not be None. Leave it out for the default."
        for name in ("keep", "log_every", "validate_every")
        if given[name] is None
    ]
    if given["epochs"] is None and given["steps"] is None and given["stop"] is None:
        problems.append("Nothing would end the training. Give epochs=, steps= or stop=.")
    batches = None
    try:
        batches = Batches(loader, options["device"])
    except LoaderError as error:
        if not problems:
            raise
        problems.append(str(error))
    except TrainingError as error:
        problems.append(str(error))
    if not problems and batches is not None:
        parsed = Options(batches=batches, **options)
        problems += _contradictions(joint, parsed, loader)
        if not problems:
            return parsed
    raise TrainingError(report(problems))


def _contradictions(joint: Joint, options: Options, loader: Any) -> Iterator[str]:
    """What is wrong only together."""
    for who, name in options.wanted:
        if name.startswith("val/") and options.measure is None:
            yield f"{who} monitors {name!r}, but nothing is validated. Give validate=, or monitor 'loss/<name>'."
        elif not name.startswith(("val/", "loss/", "metric/", "weight/", "lr/", "grad_norm/")):
            yield (
                f"{who} monitors {name!r}, which is never logged. Names begin with 'val/', 'loss/', 'metric/', "
                f"'weight/', 'lr/' or 'grad_norm/': did you mean 'val/{name}'?"
            )
    if options.best is not None and not options.best.startswith("val/"):
        yield f"best must be a value of the validation, 'val/<name>'; found {shown(options.best)}."
    if isinstance(loader, Iterator) and (options.epochs or 1) > 1:
        yield (
            f"loader is a {type(loader).__name__}, which can be read once, and epochs={options.epochs}. Give the "
            "loader itself or a list; or steps= in place of epochs=."
        )
    if options.non_finite == "skip" and any(update.setup.check != "now" for update in joint.updates_now()):
        yield "non_finite='skip' needs Joint(check='now'), which finds a bad loss before any parameter moves."
    if options.batches.alone and getattr(options.measure, "loader", None) is loader:
        yield "loader and validate are one loader that cannot be iterated twice at a time. Make another for validate."


def _count(name: str, value: Any) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise TrainingError(f"{name} must be a whole number of at least 1; found {shown(value)}.")
    return value


def _every(name: str, value: Any) -> Every:
    if value is None:
        return None
    if isinstance(value, str) and value == "epoch":
        return "epoch"
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise TrainingError(f"{name} must be 'epoch' or a whole number of steps; found {shown(value)}.")
    return value


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise TrainingError(f"{name} must be True or False; found {shown(value)}.")
    return value


def _one_of(name: str, value: Any, known: Sequence[str]) -> str:
    if not isinstance(value, str) or value not in known:
        raise TrainingError(f"{name} must be {' or '.join(map(repr, known))}; found {shown(value)}.")
    return value


def _criterion(name: str, value: Any) -> Criterion | None:
    if value is not None and not isinstance(value, Criterion):
        raise TrainingError(
            f"{name} must be a criterion, such as cograd.Plateau('val/digit') or cograd.MaxSteps(1000), or several "
            f"combined with |; found {shown(value)}."
        )
    return value


def _freeze(joint: Joint, value: Any) -> dict[str, Criterion]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise TrainingError(
            f'freeze maps models to criteria, as in {{"disc": Plateau("val/disc")}}; found {shown(value)}.'
        )
    problems = []
    for model, criterion in value.items():
        if model not in joint.updates:
            problems.append(f"freeze[{shown(model)}] names no model. {unknown('models', model, joint.models)}")
        elif criterion is None or not isinstance(criterion, Criterion):
            problems.append(
                f"freeze[{model!r}] must be a criterion, such as cograd.Plateau('val/x'); found {shown(criterion)}."
            )
    if problems:
        raise TrainingError(report(problems))
    return dict(value)


def _run_dir(value: Any) -> Path | None:
    if value is None:
        return None
    path = _path("run_dir", value)
    if _exists("run_dir", path) and not path.is_dir():
        raise TrainingError(f"run_dir must be a directory, new or of this run; {path} is a file.")
    return path


def _resume(value: Any, run_dir: Any) -> str | Path:
    if isinstance(value, str) and value in ("auto", "never", "must"):
        if value == "must" and run_dir is None:
            raise TrainingError("resume='must' needs run_dir, where the run to continue is.")
        return value
    path = _path("resume", value, _RESUME)
    if not _exists("resume", path):
        raise TrainingError(
            f"resume must be {_RESUME}; found {str(value)!r}, and there is no file or folder of that name. Leave it "
            "out to continue what is in run_dir, if anything is."
        )
    return path


def _exists(name: str, path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:
        raise TrainingError(f"{name}={str(path)!r} cannot be looked at: {error.strerror}. Choose another.") from error


def _path(name: str, value: Any, needed: str = "a path") -> Path:
    if not isinstance(value, str | os.PathLike) or not str(value) or "\0" in str(value):
        raise TrainingError(f"{name} must be {needed}; found {shown(value)}.")
    return Path(value)


def _best(value: Any) -> tuple[str, bool] | None:
    if value is None:
        return None
    name, mode = value if isinstance(value, tuple | list) and len(value) == 2 else (value, "min")
    if not isinstance(name, str) or not name or not isinstance(mode, str) or mode not in ("min", "max"):
        raise TrainingError(
            "best must be the name of a value that should be low, such as 'val/digit', or a pair such as "
            f"('val/accuracy', 'max'); found {shown(value)}."
        )
    return name, mode == "max"


def _loggers(value: Any, run_dir: Any) -> tuple[Logger, ...]:
    if (
        isinstance(value, Logger)
        or not isinstance(value, Iterable)
        or isinstance(value, str | Mapping | Iterator | torch.Tensor)
    ):
        raise TrainingError(f"loggers must be a list, such as [cograd.training.loggers.CSV()]; found {shown(value)}.")
    found = tuple(value)
    for i, logger in enumerate(found):
        if isinstance(logger, type) or not isinstance(logger, Logger):
            raise TrainingError(f"loggers[{i}] must have the methods start, log and finish; found {shown(logger)}.")
    return found


def _callbacks(value: Any) -> dict[str, tuple[Callback, ...]]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise TrainingError(f'on maps events to functions, as in {{"epoch": f}}; found {shown(value)}.')
    problems, found = [], {}
    for event, functions in value.items():
        if event not in EVENTS:
            problems.append(f"on[{shown(event)}] is no event. {unknown('events', event, EVENTS)}")
            continue
        found[event] = tuple(functions) if isinstance(functions, list | tuple) else (functions,)
        misfits = [misfit(f"on[{event!r}]", function, "run") for function in found[event]]
        problems += [problem for problem in misfits if problem]
    if problems:
        raise TrainingError(report(problems))
    return found


def _device(joint: Joint, value: Any) -> torch.device | None:
    """The device of the batches: that of the models, if they share one. On the CPU there is nothing to move."""
    devices = {p.device for name in joint.models for p in joint.models[name].parameters()}
    if value is None:
        device = devices.pop() if len(devices) == 1 else None
        return None if device is None or device.type == "cpu" else device
    try:
        device = torch.device(value)
    except (RuntimeError, TypeError, ValueError) as error:
        raise TrainingError(f"device must be a device of torch, such as 'cuda:0'; found {shown(value)}.") from error
    if device.type not in {d.type for d in devices}:
        there = ", ".join(sorted(map(str, devices)))
        raise TrainingError(
            f"device={str(device)!r}, but the models are on {there}. Move them, before their optimizers are made; then "
            "device= is not needed."
        )
    return device
