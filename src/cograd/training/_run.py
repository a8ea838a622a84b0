"""What callbacks get: the run as it is now, and the way to stop it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

from cograd._joint import Joint
from cograd._report import StepReport
from cograd.errors import TrainingError, shown
from cograd.training._history import History

EVENTS = ("start", "step", "validation", "epoch", "checkpoint", "finish")


@final
@dataclass(slots=True)
class Run:
    """The run as it is now. Callbacks (``fit(on={"step": f})``) get it as their one argument.

    Attributes:
        joint: what is trained.
        step: steps done in this run.
        epoch: epochs completed.
        report: what the last step did; None before the first, and after one that was left out.
        values: the newest number of every logged value, by name.
        history: every logged value so far.
        run_dir: where the run writes; None if it does not.
        checkpoint: the newest checkpoint in ``run_dir``.
        stopped_by: why the run is over; None while it goes on.

    >>> net = nn.Linear(2, 1)
    >>> joint = cograd.Joint(
    ...     models={"net": net},
    ...     losses=lambda m, x: {"size": m.net(x).square().mean()},
    ...     optimizers=torch.optim.SGD,
    ... )
    >>> def enough(run):
    ...     if run.report.losses["size"] < 1e9:
    ...         run.stop("it is small enough")
    >>> history = cograd.fit(joint, [torch.ones(4, 2)], epochs=3, progress=False, on={"step": enough})
    >>> history.stopped_by, history.steps
    ('it is small enough', 1)
    """

    joint: Joint
    step: int = 0
    epoch: int = 0
    report: StepReport | None = None
    values: dict[str, float] = field(default_factory=dict)
    history: History = field(default_factory=History)
    run_dir: Path | None = None
    checkpoint: Path | None = None
    stopped_by: str | None = None

    def stop(self, why: str) -> None:
        """End the run after this step. The same command then finds it finished.

        Raises:
            TrainingError: ``why`` is no text.
        """
        if not isinstance(why, str) or not why:
            raise TrainingError(f"run.stop(why) needs the reason in words; found {shown(why)}.")
        self.stopped_by = self.stopped_by or why


Callback = Callable[[Run], object]
