"""The life of a training run: fit, checkpoints, stopping, loaders, progress, loggers."""

from cograd.training import loggers as loggers
from cograd.training._batches import Batches as Batches
from cograd.training._checkpoints import Checkpoints as Checkpoints
from cograd.training._export import export as export
from cograd.training._fit import fit as fit
from cograd.training._history import Best as Best
from cograd.training._history import History as History
from cograd.training._history import Series as Series
from cograd.training._move import move as move
from cograd.training._run import Run as Run
from cograd.training._stopping import AnyOf as AnyOf
from cograd.training._stopping import Criterion as Criterion
from cograd.training._stopping import MaxSteps as MaxSteps
from cograd.training._stopping import Plateau as Plateau
from cograd.training._stopping import Target as Target
from cograd.training._stopping import TimeLimit as TimeLimit
from cograd.training._validation import Validation as Validation
from cograd.training._world import set_world_state as set_world_state
from cograd.training._world import world_state as world_state
from cograd.training._zip import zip_loaders as zip_loaders
