"""Gradients are cleared between the backward and the step.

What it does:
    Finds ``zero_grad`` calls that throw away gradients which the step after them was to apply: all of them, or those
    of all micro-batches but the last. Gradients that the script reads before, such as their norms, were of use.

Why it is bad:
    The step does nothing, or accumulation over micro-batches uses only the last of them.

Example:
    for part in batch.chunk(4):
        optimizer.zero_grad()
        loss(part).backward()
    optimizer.step()

Use instead:
    optimizer.zero_grad()
    for part in batch.chunk(4):
        loss(part).backward()
    optimizer.step()
"""

from __future__ import annotations

from collections.abc import Iterator

from cograd.diagnosis._finding import Finding, Related
from cograd.diagnosis.rules._naming import optimizer
from cograd.tracing import Backward, Cleared, Log, Step, Use

SEVERITY = "warning"
FOLLOWS = True


def check(log: Log) -> Iterator[Finding]:
    """Clearings that drop what the next step lacks."""
    told = set()
    applied_sites = {use.site for step in log.of(Step) for use in step.uses}
    steps = log.of(Step)
    read = {use.site for cleared in log.of(Cleared) for use in cleared.dropped if use.read}
    for before, step in zip([None, *steps], steps, strict=False):
        start = max((s.at for s in steps if s.optimizer == step.optimizer and s.at < step.at), default=0)
        if step.optimizer in told or step.closure or (start == 0 and before is None and len(steps) > 1):
            continue
        held = log.optimizers[step.optimizer].parameters
        dropped = [
            (cleared, use) for cleared in log.of(Cleared) if start < cleared.at < step.at
            for use in cleared.dropped if use.parameters & held and use.backward > start
        ]  # fmt: skip
        if not dropped:
            continue
        cleared, use = dropped[-1]
        unread = [d for d in dropped if d[1].site not in read]
        empty = not step.uses and not step.unknown
        micro = [d for d in unread if any(d[1].site == u.site for u in step.uses)]
        never = [d for d in unread if d[1].site not in applied_sites and d[1].parameters <= held and not d[0].moved]
        if (
            never
            and not log.unfollowed
            and not empty
            and not micro
            and step.uses
            and _again(log, step, never[0][0], never[0][1])
        ):
            told.add(step.optimizer)
            cleared, use = never[0]
            yield Finding(
                cleared.site,
                f"{cleared.site.text} throws away the gradients of {use.loss} before {step.site.text} can apply them",
                "clear the gradients once, before the first backward; or add the losses and differentiate the sum",
                (
                    Related("backward", use.site, "computes gradients that nothing ever applies"),
                    Related("zero_grad", cleared.site, "throws them away"),
                    Related("step", step.site, f"applies those of {step.uses[-1].loss} only"),
                ),
            )
            continue
        if empty or (len(micro) > 1 and _regular(log, step, micro[0][1].site)):
            told.add(step.optimizer)
            cleared, use = dropped[-1] if empty else micro[0]
            what = "all gradients" if empty else f"the gradients of {len(micro)} of {len(micro) + 1} backward passes"
            yield Finding(
                cleared.site,
                f"{cleared.site.text} throws away {what} before {step.site.text} can apply them",
                f"call it after {optimizer(log, step.optimizer)}.step(), or before the first backward",
                (
                    Related("backward", use.site, "computes them"),
                    Related("zero_grad", cleared.site, "throws them away"),
                    Related("step", step.site, "finds none" if empty else "finds only the last"),
                ),
            )


def _again(log: Log, step: Step, cleared: Cleared, use: Use) -> bool:
    """Whether this clearing drops gradients of this backward before several steps, and they were meant for a step.

    Those that also go to a tensor which is no parameter, such as an image to be perturbed, were not.
    """
    for event in log.of(Backward):
        if event.site == use.site and any(not log.parameters[p].registrable for p in event.reached):
            return False
    same = [c.at for c in log.of(Cleared) if c.site == cleared.site and any(u.site == use.site for u in c.dropped)]
    ends = [s.at for s in log.of(Step) if s.optimizer == step.optimizer]
    return len({min((end for end in ends if end > at), default=0) for at in same} - {0}) > 1


def _regular(log: Log, step: Step, site: object) -> bool:
    """Whether each step of the optimizer uses this backward only once, although it runs several times per step."""
    return all(sum(u.site == site for u in s.uses) == 1 for s in log.of(Step) if s.optimizer == step.optimizer)
