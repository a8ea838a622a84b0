"""The backward passes of a step, in a few characters."""

from __future__ import annotations

from cograd import Phase, Plan, StepPlan


def passes(plan: StepPlan) -> str:
    """One term per phase, times its ``repeat``, divided by its ``every``; stages one after the other.

    A phase whose passes are not known, because it has never run, is a question mark.

    >>> passes(StepPlan(((Phase("critic", repeat=3), Plan((), "")), (Phase("gen", every=5), None))))
    '3x0 + ?/5'
    >>> passes(StepPlan(((Phase("a", stop=9), None), (Phase("b"), None))))
    '? + ?, then ?'
    """
    bounds = {0} | {phase.start for phase, _ in plan.phases} | {phase.stop for phase, _ in plan.phases}
    stages = [
        " + ".join(_term(phase, p) for phase, p in plan.phases if phase.start <= at and not _over(phase, at))
        for at in sorted(bound for bound in bounds if bound is not None)
    ]
    return ", then ".join(stage or "0" for stage in stages)


def _over(phase: Phase, step: int) -> bool:
    return phase.stop is not None and phase.stop <= step


def _term(phase: Phase, plan: Plan | None) -> str:
    count = str(len(plan.passes)) if plan else "?"
    repeat = f"{phase.repeat}x" if phase.repeat > 1 else ""
    every = f"/{phase.every}" if phase.every > 1 else ""
    return f"{repeat}{count}{every}"
