"""Every error that cograd raises on purpose.

Each one is also a builtin, so code that knows nothing of cograd can catch it::

    CogradError
    ├── ModelError (ValueError)              a model, or a parameter's place in one
    │   └── UnknownModelError (AttributeError, KeyError)
    ├── OptimizerError (ValueError)          who owns which parameter
    ├── RouteError (ValueError)              which loss trains which model
    ├── PhaseError (ValueError)              what is updated when
    ├── WeightingError (ValueError)          weights and rules for them
    │   └── ConvergenceError (ArithmeticError)
    ├── LossError (ValueError)               what the losses function returned
    │   └── NonFiniteLossError (FloatingPointError)
    ├── UnreachedError (RuntimeError)        a declared gradient that does not exist
    ├── PassError (RuntimeError)             a graph that cannot be differentiated as declared
    ├── GradModeError (RuntimeError)         a step where gradients are switched off
    ├── PartialStepError (RuntimeError)      an optimizer failed after parameters may have moved
    ├── PrecisionError (RuntimeError)        autocast or half precision used in a way that gives wrong gradients
    ├── StateError (ValueError)              a state_dict that does not fit
    │   └── CheckpointError (OSError)        a checkpoint that cannot be written or read
    ├── TrainingError (ValueError)           fit was asked for something that does not hold together
    │   ├── LoaderError (TypeError)          a loader, or a batch of one
    │   ├── BatchError (RuntimeError)        a batch on which the losses cannot be computed
    │   └── UnknownValueError (KeyError)     a value that no run has logged
    ├── LogError (ValueError)                a logger that cannot do what it is asked to
    │   ├── LogFileError (OSError)           a log that cannot be written or continued
    │   └── MissingPackageError (ImportError)
    ├── DiagnosisError (ValueError)          a rule or a baseline that does not exist
    └── RecipeError (ValueError)             a recipe that does not exist

A message names the thing, the requirement, what was found and what to do next.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from inspect import isroutine

from torch import Tensor, nn

_WIDTH = 100  # of a value that is shown
_LIKE = 0.65  # of two names that are alike: one letter in three may differ


class CogradError(Exception):
    """The root of all errors that cograd raises on purpose."""


class ModelError(CogradError, ValueError):
    """A model cannot take part: nested, shared, lazy, wrapped, or not a module."""


class UnknownModelError(ModelError, AttributeError, KeyError):
    """The losses function asks for a model that does not exist."""

    __str__ = Exception.__str__  # that of KeyError puts quotes around the message


class OptimizerError(CogradError, ValueError):
    """A parameter is not in exactly one optimizer of a phase that updates it, or an optimizer holds a stranger."""


class RouteError(CogradError, ValueError):
    """``trains`` names something unknown, or a loss reaches a parameter that no model holds."""


class PhaseError(CogradError, ValueError):
    """A phase names an unknown model or loss, or a model that nothing would train."""


class WeightingError(CogradError, ValueError):
    """A weight or a weighting rule cannot be used as asked."""


class ConvergenceError(WeightingError, ArithmeticError):
    """A rule found no weights. Nothing stale or uniform is returned in their place."""


class LossError(CogradError, ValueError):
    """A loss is not a scalar, floating tensor with a graph.

    Attributes:
        losses: the losses without a graph, if that is what is wrong.
    """

    def __init__(self, message: str, losses: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.losses = tuple(losses)


class NonFiniteLossError(LossError, FloatingPointError):
    """A loss, the weight of one, or a gradient is NaN or infinite. No parameter has moved."""


class UnreachedError(CogradError, RuntimeError):
    """A loss is declared to train a model of which it reaches no parameter.

    Attributes:
        losses: which losses.
        models: which models; all that the losses train if empty.
        fact: the message without the advice on where to look, which is of no use once the place is known.
    """

    def __init__(
        self, message: str, losses: Sequence[str] = (), models: Sequence[str] = (), search: str = ""
    ) -> None:  # fmt: skip
        super().__init__(f"{message} {search}".rstrip())
        self.losses, self.models, self.fact = tuple(losses), tuple(models), message


class PassError(CogradError, RuntimeError):
    """The graph of this step cannot be differentiated as declared.

    Attributes:
        losses: the losses whose graph goes back into one that was freed, if that is what is wrong.
    """

    def __init__(self, message: str, losses: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.losses = tuple(losses)


class GradModeError(CogradError, RuntimeError):
    """A step was asked for inside ``no_grad`` or ``inference_mode``."""


class PartialStepError(CogradError, RuntimeError):
    """An optimizer failed while stepping, so parameters may have moved.

    Attributes:
        failed: the optimizer that raised.
        stepped: the optimizers that had already stepped in this phase.
    """

    def __init__(
        self, failed: str, stepped: Sequence[str], reason: BaseException, after: bool = False, advice: str = ""
    ) -> None:
        self.failed = failed
        self.stepped = tuple(stepped)
        done = f"{quoted(self.stepped)} had already stepped" if stepped else "none had stepped before it"
        if after:
            super().__init__(
                f"{failed} failed after the step ({type(reason).__name__}: {reason}); {done}. Load the last checkpoint "
                "before going on, or the step is made twice."
            )
            return
        super().__init__(
            f"optimizer {failed!r} failed while stepping ({type(reason).__name__}: {reason}); {done}. "
            f"Its parameters may have moved in part: load the last checkpoint before going on.{advice}"
        )


class PrecisionError(CogradError, RuntimeError):
    """Autocast or half precision would give wrong gradients as it is used here."""


class StateError(CogradError, ValueError):
    """A state_dict belongs to another configuration. Nothing was loaded."""


class CheckpointError(StateError, OSError):
    """A checkpoint cannot be written, or none of those that exist can be read."""


class TrainingError(CogradError, ValueError):
    """``fit`` was asked for something that does not hold together. Nothing was trained."""


class LoaderError(TrainingError, TypeError):
    """A loader gives no batches, or cannot be continued where it was."""


class BatchError(TrainingError, RuntimeError):
    """The losses cannot be computed, or not differentiated, on a batch. Its ``__cause__`` says where and why."""


class UnknownValueError(TrainingError, KeyError):
    """A history, a criterion or ``best`` is asked for a value that is not logged."""

    __str__ = Exception.__str__  # that of KeyError puts quotes around the message


class LogError(CogradError, ValueError):
    """A logger is used in a way that it cannot follow, or was given something that is not a number."""


class LogFileError(LogError, OSError):
    """A log cannot be written, or what is there cannot be continued. What was written before is whole."""


class MissingPackageError(LogError, ImportError):
    """A logger needs a package that is not installed, which is its ``name``."""

    def __init__(self, message: str, package: str) -> None:
        super().__init__(message)
        self.name = package


class DiagnosisError(CogradError, ValueError):
    """The doctor was asked for a rule that does not exist, or cannot read a baseline."""


class RecipeError(CogradError, ValueError):
    """There is no recipe of that name."""


def shown(value: object) -> str:
    """What was found, on one short line, whatever it is: never fails, and waits for no GPU.

    >>> shown("trunk"), shown(torch.zeros(2, 3)), shown(nn.Linear), shown(print)
    ("'trunk'", 'a float32 tensor of shape (2, 3)', 'the class Linear', 'the function print')
    """
    kind = type(value)
    if isinstance(value, Tensor):
        return f"a {str(value.dtype).removeprefix('torch.')} tensor of shape {tuple(value.shape)}"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, nn.Module):
        return f"the module {kind.__name__}"
    if isroutine(value):
        return f"the function {value.__name__}"
    if isinstance(value, Iterator):
        return f"a {kind.__name__}, which can be read only once"
    if kind.__repr__ is object.__repr__:
        return f"an object of type {kind.__name__}"
    try:
        text = " ".join(repr(value).split())
    except Exception:  # a repr may do anything, and the message matters more
        return f"an object of type {kind.__name__}, whose repr fails"
    return text if len(text) <= _WIDTH else f"{text[:_WIDTH]}... of type {kind.__name__}"


def quoted(names: Iterable[object]) -> str:
    """``'a', 'b'`` for a message; ``none`` if there are no names."""
    return ", ".join(shown(name) for name in names) or "none"


def unknown(what: str, name: object, known: Iterable[str]) -> str:
    """The end of a message about a name that does not exist: what does, and the nearest one."""
    known = list(known)
    return f"Known {what}: {quoted(known)}.{nearest(name, known)}"


def nearest(name: object, known: Iterable[str]) -> str:
    """`` Did you mean 'a'?`` for the one name that is like ``name``; nothing if none is, or several are.

    >>> nearest("dics", ["disc", "gen"]), nearest("won", ["one", "two"]), nearest("net3", ["net1", "net2"])
    (" Did you mean 'disc'?", '', '')
    """
    wanted = name if isinstance(name, str) else shown(name)
    names = [other for other in known if isinstance(other, str)]  # what was given as known may hold anything
    likeness = {other: _likeness(wanted.casefold(), other.casefold()) for other in names}
    best = max(likeness.values(), default=0.0)
    near = [other for other, like in likeness.items() if like == best]
    return f" Did you mean {near[0]!r}?" if best > _LIKE and len(near) == 1 else ""


def _likeness(wanted: str, known: str) -> float:
    """From 0 to 1. Who mistypes a name most often gets its first letter right."""
    if known.endswith(f"/{wanted}"):
        return 1.0
    if not wanted or not known or wanted[0] != known[0]:
        return 0.0
    if len(wanted) > 2 and known.startswith(wanted):
        return 1.0
    return difflib.SequenceMatcher(None, wanted, known).ratio()


def report(problems: Sequence[str], most: int | None = None) -> str:
    """One problem as it is; several as a list, of which only the first ``most`` are written out."""
    if len(problems) == 1:
        return problems[0]
    lines = [*problems[:most], *([f"and {len(problems) - most} more"] if most and len(problems) > most else [])]
    return f"{len(problems)} problems:\n" + "\n".join(f"  - {line}" for line in lines)
