"""What ``fit`` asks of a logger: three methods."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Logger(Protocol):
    """Whatever has these three methods is a logger, also without inheriting from this class.

    A logger that must remember something until the run is continued has ``state_dict()`` and
    ``load_state_dict(state)`` besides: ``fit`` stores the one in each checkpoint, and calls the other
    before ``start``. The state is made of plain numbers, strings and containers.

    >>> class Printing:
    ...     def start(self, run_dir, config, step):
    ...         print("from step", step)
    ...
    ...     def log(self, values, step):
    ...         print(step, dict(values))
    ...
    ...     def finish(self):
    ...         print("done")
    >>> logger = Printing()
    >>> isinstance(logger, cograd.training.loggers.Logger)
    True
    >>> logger.start(None, {}, step=0)
    from step 0
    >>> logger.log({"loss/digit": 0.5}, step=50)
    50 {'loss/digit': 0.5}
    """

    def start(self, run_dir: Path | None, config: Mapping[str, Any], step: int) -> None:
        """Begin.

        Args:
            run_dir: the directory of the run, which exists; ``None`` if nothing is to be kept.
            config: what the run was started with.
            step: how many steps are done. 0: a fresh run. More: the run continues, and whatever was
                logged of later steps is dropped, for these steps come again.
        """

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Take the ``values`` after this many steps. NaN and infinity are values too."""

    def finish(self) -> None:
        """Nothing more is to come: close what is open. Also called when the run has failed."""
