"""The door: which names are public, that each is documented, and what importing costs."""

import inspect
import subprocess
import sys
from typing import get_origin

import pytest

import cograd
from cograd import errors, weighting

PUBLIC = [
    "EMA",
    "Clip",
    "CogradError",
    "Copy",
    "EachEpoch",
    "Explanation",
    "Fp16",
    "History",
    "Joint",
    "Losses",
    "MaxSteps",
    "Mean",
    "Metric",
    "Models",
    "Pass",
    "Phase",
    "Plan",
    "Plateau",
    "Report",
    "StepPlan",
    "StepReport",
    "Target",
    "TimeLimit",
    "Validation",
    "alternate",
    "backward",
    "errors",
    "explain",
    "fit",
    "grad",
    "gramian",
    "record",
    "together",
    "training",
    "weighting",
    "zip_loaders",
]
RULES = [
    "DWA",
    "FAMO",
    "IMTLG",
    "IMTLL",
    "MGDA",
    "AlignedMTL",
    "CAGrad",
    "CoV",
    "ConFIG",
    "DualProj",
    "FairGrad",
    "FirstValue",
    "Fixed",
    "FromGramian",
    "FromJacobian",
    "GeometricMean",
    "GradNorm",
    "GradVac",
    "JacobianWeighting",
    "LRAnnealing",
    "Log",
    "NashMTL",
    "PCGrad",
    "Random",
    "ReLoBRaLo",
    "RunningMean",
    "RunningStd",
    "Scheduled",
    "Seen",
    "SmoothTchebycheff",
    "SoftAdapt",
    "SoftOptimalUncertainty",
    "State",
    "Stateful",
    "UPGrad",
    "Uncertainty",
    "Weighting",
]


def test_the_public_names():
    assert cograd.__all__ == PUBLIC
    assert weighting.__all__ == RULES


@pytest.mark.parametrize("module", [cograd, weighting], ids=["cograd", "weighting"])
def test_every_public_name_is_there_and_nothing_else(module):
    assert module.__all__ == sorted(module.__all__, key=lambda name: (not name.isupper(), name))
    for name in module.__all__:
        assert hasattr(module, name)
    others = {name for name, value in vars(module).items() if not name.startswith("_") and not inspect.ismodule(value)}
    assert others <= set(module.__all__)


def things():
    """What has a docstring of its own: all but names for types, such as ``Losses``."""
    named = [getattr(cograd, name) for name in PUBLIC] + [getattr(weighting, name) for name in RULES]
    return [thing for thing in named if get_origin(thing) is None]


@pytest.mark.parametrize("thing", things(), ids=lambda thing: thing.__name__)
def test_every_public_thing_is_documented(thing):
    doc = inspect.getdoc(thing)
    assert doc
    assert doc.splitlines()[0].endswith((".", ":"))
    if inspect.isclass(thing) and thing.__module__.startswith("cograd"):
        for name, member in vars(thing).items():
            if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, property)):
                assert inspect.getdoc(member), f"{thing.__name__}.{name} has no docstring"


def the_errors():
    return [e for e in vars(errors).values() if inspect.isclass(e) and issubclass(e, Exception)]


@pytest.mark.parametrize("error", the_errors(), ids=lambda e: e.__name__)
def test_every_error_is_a_cograd_error_and_a_builtin(error):
    assert issubclass(error, errors.CogradError)
    assert inspect.getdoc(error)
    assert error.__name__ in errors.__doc__
    if error is not errors.CogradError:
        builtins = [base for base in error.__mro__ if base.__module__ == "builtins"]
        assert {ValueError, RuntimeError, FloatingPointError} & set(builtins)


def test_the_version_is_a_string_of_three_numbers():
    assert [part.isdigit() for part in cograd.__version__.split(".")] == [True] * 3


def test_importing_is_lean():
    heavy = ["sklearn", "matplotlib", "rich", "jsonargparse", "cograd.cli", "cograd.recipes", "cograd.tracing"]
    code = f"import sys, cograd; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
