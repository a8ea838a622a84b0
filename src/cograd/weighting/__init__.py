"""Rules for combining K losses: each turns what was observed into K weights."""

from cograd.weighting._aligned_mtl import AlignedMTL as AlignedMTL
from cograd.weighting._cagrad import CAGrad as CAGrad
from cograd.weighting._config import ConFIG as ConFIG
from cograd.weighting._contract import Seen as Seen
from cograd.weighting._contract import State as State
from cograd.weighting._contract import Weighting as Weighting
from cograd.weighting._cov import CoV as CoV
from cograd.weighting._dualproj import DualProj as DualProj
from cograd.weighting._dwa import DWA as DWA
from cograd.weighting._fairgrad import FairGrad as FairGrad
from cograd.weighting._famo import FAMO as FAMO
from cograd.weighting._first_value import FirstValue as FirstValue
from cograd.weighting._fixed import Fixed as Fixed
from cograd.weighting._foreign import FromGramian as FromGramian
from cograd.weighting._foreign import FromJacobian as FromJacobian
from cograd.weighting._geometric_mean import GeometricMean as GeometricMean
from cograd.weighting._gradnorm import GradNorm as GradNorm
from cograd.weighting._gradvac import GradVac as GradVac
from cograd.weighting._imtl_g import IMTLG as IMTLG
from cograd.weighting._imtl_l import IMTLL as IMTLL
from cograd.weighting._jacobian import JacobianWeighting as JacobianWeighting
from cograd.weighting._log import Log as Log
from cograd.weighting._lr_annealing import LRAnnealing as LRAnnealing
from cograd.weighting._mgda import MGDA as MGDA
from cograd.weighting._nash_mtl import NashMTL as NashMTL
from cograd.weighting._pcgrad import PCGrad as PCGrad
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
from cograd.weighting._upgrad import UPGrad as UPGrad

__all__ = [
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
