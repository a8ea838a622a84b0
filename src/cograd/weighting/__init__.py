"""Rules for combining K losses: each turns what was observed into K weights."""

from cograd.weighting._contract import Seen as Seen
from cograd.weighting._contract import State as State
from cograd.weighting._contract import Weighting as Weighting
from cograd.weighting._first_value import FirstValue as FirstValue
from cograd.weighting._fixed import Fixed as Fixed
from cograd.weighting._log import Log as Log
from cograd.weighting._running_mean import RunningMean as RunningMean
from cograd.weighting._running_std import RunningStd as RunningStd
from cograd.weighting._scheduled import Scheduled as Scheduled
from cograd.weighting._stateful import Stateful as Stateful

__all__ = [
    "FirstValue",
    "Fixed",
    "Log",
    "RunningMean",
    "RunningStd",
    "Scheduled",
    "Seen",
    "State",
    "Stateful",
    "Weighting",
]
