"""A step applies left-over gradients of another loss.

What it does:
    Finds a loss whose backward fills the gradients of a second model, is stepped by the first model's optimizer,
    and whose gradients on the second model are still there when the second loss is differentiated and stepped.

Why it is bad:
    The second model is trained on the sum of both losses: a critic learns to please the actor.

Example:
    opt_actor.zero_grad()
    opt_critic.zero_grad()
    actor_loss.backward()  # also fills the critic's gradients
    opt_actor.step()
    critic_loss.backward()
    opt_critic.step()

Use instead:
    actor_loss.backward()
    opt_actor.step()
    opt_critic.zero_grad()
    critic_loss.backward()
    opt_critic.step()
"""

from __future__ import annotations

from collections.abc import Iterator

from cograd.diagnosis._finding import Finding, Related
from cograd.diagnosis.rules._naming import models, optimizer
from cograd.tracing import Backward, Cleared, Log, Step, Use, reached

SEVERITY = "warning"
FOLLOWS = True
COVERS = ("foreign-gradient",)


def check(log: Log) -> Iterator[Finding]:
    """Steps on an older loss that another optimizer had finished with before the newer loss came."""
    told = set()
    for step in log.of(Step):
        fresh = [use for use in step.uses if not use.again]
        for old, new in ((a, b) for a in fresh for b in fresh if a.backward < b.backward):
            if old.site == new.site or not (old.others - new.others) or not old.parameters & new.parameters:
                continue
            if not _finished_before(log, old, new):
                continue
            key = step.optimizer, old.site, new.site
            if key in told:
                continue
            told.add(key)
            yield _finding(log, step, old, new)
    yield from _adversaries(log)


def _adversaries(log: Log) -> Iterator[Finding]:
    """Steps on two losses of which the older was kept from a second model on purpose, and the newer trains it.

    The discriminator's loss detaches the fake; if its step comes after the generator's backward, it applies both.
    """
    passes = {event.at: event for event in log.of(Backward)}
    for step in log.of(Step):
        held = log.optimizers[step.optimizer].parameters
        fresh = [passes[use.backward] for use in step.uses if not use.again and use.backward in passes]
        for old, new in ((a, b) for a in fresh for b in fresh if a.at < b.at and a.site != b.site):
            strangers = new.reached - held
            depends = {p for root in old.roots for p in reached(log.values, root, differentiable=False)}
            if old.reached <= held and strangers & depends and new.reached & old.reached:
                yield Finding(
                    new.site,
                    f"{step.site.text} also applies gradients of {new.loss}, which is to train "
                    f"{models(log, strangers)}: {models(log, new.reached & held)} is trained on both losses",
                    f"freeze {models(log, new.reached & held)} during this backward, or call {step.site.text} before "
                    f"{new.loss} is computed",
                    (
                        Related("backward", old.site, f"trains {models(log, old.reached)} alone"),
                        Related("backward", new.site, "adds to its gradients"),
                        Related("step", step.site, "applies both"),
                    ),
                )


def _finished_before(log: Log, old: Use, new: Use) -> bool:
    """Whether another optimizer applied the older loss before the newer was differentiated."""
    done = [s for s in log.of(Step) if any(u.backward == old.backward and not u.again for u in s.uses)]
    return any(s.at < new.backward and s.optimizer in old.others for s in done)


def _finding(log: Log, step: Step, old: Use, new: Use) -> Finding:
    name = optimizer(log, step.optimizer)
    cleared = [c for c in log.of(Cleared) if c.parameters & old.parameters and c.at < old.backward]
    last = max(cleared, key=lambda c: c.at, default=None)
    related = [] if last is None else [Related("zero_grad", last.site, "comes too early")]
    return Finding(
        new.site if last is None else last.site,
        f"{step.site.text} also applies gradients of {old.loss}, which were left on {models(log, old.parameters)}",
        f"call {name}.zero_grad() right before {new.site.text}",
        (
            *related,
            Related("backward", old.site, f"leaves gradients on {models(log, old.parameters)}"),
            Related("backward", new.site, "adds its own"),
            Related("step", step.site, "applies both"),
        ),
    )
