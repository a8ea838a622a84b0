"""Rules for combining K losses: each turns what was observed into K weights."""

from cograd.weighting._contract import Seen as Seen
from cograd.weighting._contract import State as State
from cograd.weighting._contract import Weighting as Weighting
from cograd.weighting._cov import CoV as CoV
from cograd.weighting._dwa import DWA as DWA
from cograd.weighting._famo import FAMO as FAMO
from cograd.weighting._first_value import FirstValue as FirstValue
from cograd.weighting._fixed import Fixed as Fixed
from cograd.weighting._geometric_mean import GeometricMean as GeometricMean
from cograd.weighting._imtl_l import IMTLL as IMTLL
from cograd.weighting._log import Log as Log
from cograd.weighting._random import Random as Random
from cograd.weighting._relobralo import ReLoBRaLo as ReLoBRaLo
from cograd.weighting._running_mean import RunningMean as RunningMean
from cograd.weighting._running_std import RunningStd as RunningStd
from cograd.weighting._scheduled import Scheduled as Scheduled
from cograd.weighting._smooth_tchebycheff import SmoothTchebycheff as SmoothTchebycheff
from cograd.weighting._soft_adapt import SoftAdapt as SoftAdapt
from cograd.weighting._soft_optimal_uncertainty import SoftOptimalUncertainty as SoftOptimalUncertainty
from cograd.weighting._stateful import Stateful as Stateful
from cograd.weighting._uncertainty import Uncertainty as Uncertainty

__all__ = [
    "DWA",
    "FAMO",
    "IMTLL",
    "CoV",
    "FirstValue",
    "Fixed",
    "GeometricMean",
    "Log",
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
    "Uncertainty",
    "Weighting",
]
