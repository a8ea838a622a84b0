"""Train several PyTorch models with several losses, in the fewest backward passes.

Declare models, losses and which loss trains which (``Joint``), or replace ``loss.backward()`` in a
loop of your own (``backward``, ``grad``). ``weighting`` holds the rules for combining losses, and
``gramian`` the ways to compare their gradients, for the rules that look at them. ``explain`` and
``record`` say which loss trains which model, and where a gradient was cut.
"""

from cograd import errors as errors
from cograd import gramian as gramian
from cograd import training as training
from cograd import weighting as weighting
from cograd._backward import backward as backward
from cograd._backward import grad as grad
from cograd._clip import Clip as Clip
from cograd._counted import Mean as Mean
from cograd._counted import Metric as Metric
from cograd._followers import EMA as EMA
from cograd._followers import Copy as Copy
from cograd._joint import Joint as Joint
from cograd._joint import StepPlan as StepPlan
from cograd._losses import Losses as Losses
from cograd._models import Models as Models
from cograd._phase import Phase as Phase
from cograd._phase import alternate as alternate
from cograd._phase import together as together
from cograd._plan import Pass as Pass
from cograd._plan import Plan as Plan
from cograd._precision import Fp16 as Fp16
from cograd._report import Report as Report
from cograd._report import StepReport as StepReport
from cograd._schedules import EachEpoch as EachEpoch
from cograd.errors import CogradError as CogradError
from cograd.explanation import Explanation as Explanation
from cograd.explanation import explain as explain
from cograd.explanation import record as record
from cograd.training import History as History
from cograd.training import MaxSteps as MaxSteps
from cograd.training import Plateau as Plateau
from cograd.training import Target as Target
from cograd.training import TimeLimit as TimeLimit
from cograd.training import Validation as Validation
from cograd.training import fit as fit
from cograd.training import zip_loaders as zip_loaders

__version__ = "0.1.0"

__all__ = [
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
