"""Recording what a training script does with gradients: events, and the operations of the first iterations."""

from cograd.tracing._events import Aliased as Aliased
from cograd.tracing._events import Backward as Backward
from cograd.tracing._events import Cleared as Cleared
from cograd.tracing._events import Clipped as Clipped
from cograd.tracing._events import Copied as Copied
from cograd.tracing._events import Event as Event
from cograd.tracing._events import Flagged as Flagged
from cograd.tracing._events import Held as Held
from cograd.tracing._events import MadeLeaf as MadeLeaf
from cograd.tracing._events import OptimizerMade as OptimizerMade
from cograd.tracing._events import Replaced as Replaced
from cograd.tracing._events import Stale as Stale
from cograd.tracing._events import Step as Step
from cograd.tracing._events import Use as Use
from cograd.tracing._install import recording as recording
from cograd.tracing._log import Log as Log
from cograd.tracing._log import Optimizer as Optimizer
from cograd.tracing._log import Parameter as Parameter
from cograd.tracing._recorder import Recorder as Recorder
from cograd.tracing._sites import NOWHERE as NOWHERE
from cograd.tracing._sites import Site as Site
from cograd.tracing._values import ESCAPES as ESCAPES
from cograd.tracing._values import Value as Value
from cograd.tracing._values import Values as Values
from cograd.tracing._values import below as below
from cograd.tracing._values import reached as reached
