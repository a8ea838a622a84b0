"""The life of a training run: fit, checkpoints, stopping, loaders, progress, loggers."""

from cograd.training._history import Best as Best
from cograd.training._history import History as History
from cograd.training._history import Series as Series
from cograd.training._stopping import AnyOf as AnyOf
from cograd.training._stopping import Criterion as Criterion
from cograd.training._stopping import MaxSteps as MaxSteps
from cograd.training._stopping import Plateau as Plateau
from cograd.training._stopping import Target as Target
from cograd.training._stopping import TimeLimit as TimeLimit
