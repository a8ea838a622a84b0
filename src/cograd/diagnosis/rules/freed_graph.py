"""A backward through a graph that an earlier backward has freed.

What it does:
    Finds the backward that fails, the one that freed the graph, and where the two meet.

Why it is bad:
    The script stops. ``retain_graph=True``, which the error suggests, is rarely right: losses that share a forward
    are summed, state that is carried from one iteration to the next is detached, and what was computed once before
    the loop has to be computed in each iteration.

Example:
    loss_a.backward()
    loss_b.backward()  # both through encoder(x)

Use instead:
    (loss_a + loss_b).backward()
"""

from __future__ import annotations

from collections.abc import Iterator

from cograd.diagnosis._finding import Finding, Related
from cograd.diagnosis.rules._naming import models
from cograd.diagnosis.rules._saved import forward_site
from cograd.tracing import NOWHERE, Backward, Log, OptimizerMade, Site, Step, Value, below

SEVERITY = "error"
COVERS = ("graph-leak",)


def check(log: Log) -> Iterator[Finding]:
    """A backward failed because the graph was gone."""
    for event in log.of(Backward):
        if "backward through the graph a second time" not in event.error:
            continue
        number, by = event.freed or (None, NOWHERE)
        shared = None if number is None else forward_site(log, number)
        related = [] if shared is None else [Related("forward", shared, "made the graph")]
        related += [] if by is NOWHERE else [Related("backward", by, "freed it")]
        related.append(Related("backward", event.site, "needs it again"))
        site, message, fix = _advice(log, event, by, shared)
        yield Finding(site, message, fix, tuple(related))


def _advice(log: Log, event: Backward, by: Site, shared: Site | None) -> tuple[Site, str, str]:
    if by == event.site:
        old = _carried(log, event)
        if old is None:
            where = "" if shared is None else f" (line {shared.line})"
            fix = f"detach what is carried over from the iteration before{where}, or compute it anew in each iteration"
            return event.site, f"{event.site.text} runs into the graph of the iteration before, which is freed", fix
        new, carried = old
        if sum(1 for v in log.values.values() if v.site == carried.site and v.op == carried.op) == 1:
            message = (
                f"{event.site.text} goes through {carried.site.text}, computed once and freed by the first backward"
            )
            return carried.site, message, "move this line into the loop, so that each iteration has a graph of its own"
        here = _in_the_loop(event, new)
        message = f"{event.site.text} runs into the graph of the iteration before, through what line {here.line} uses"
        name = _in_the_loop(event, carried).target or "state"
        fix = f"detach the state where one iteration hands it to the next: {name} = {name}.detach()"
        return here, message, fix
    leak = _not_detached(log, event, by)
    if leak is not None:
        site, model = leak
        message = f"{by.text} also went through {model}, and freed the graph that {event.site.text} needs"
        return site, message, f"detach the output of {model} on this line: that loss does not train it"
    first = by.receiver or "the first loss"
    message = f"{event.site.text} goes through a graph that {by.text or 'an earlier backward'} freed"
    return event.site, message, f"call backward once, on the sum: ({first} + {event.loss}).backward()"


def _in_the_loop(event: Backward, value: Value) -> Site:
    """The line that computes ``value`` as seen from the function that calls backward."""
    places = (value.site, *value.callers)
    return next((s for s in places if (s.file, s.function) == (event.site.file, event.site.function)), value.site)


def _carried(log: Log, event: Backward) -> tuple[Value, Value] | None:
    """The first value of this iteration that was computed from one of an earlier iteration, and that one."""
    earlier = max((e.at for e in log.of(Backward) if e.at < event.at), default=0)
    for root in event.roots:
        for value in below(log.values, root, differentiable=True):
            for i in value.inputs:
                old = log.values[i]
                if value.at >= earlier > old.at and old.requires_grad and old.parameter is None:
                    return value, old
    return None


def _not_detached(log: Log, event: Backward, by: Site) -> tuple[Site, str] | None:
    """Where the freed loss used the output of a model that its own step did not train."""
    first = next((e for e in reversed(log.of(Backward)) if e.site == by and e.at < event.at), None)
    step = None if first is None else next((s for s in log.of(Step) if first.at < s.at < event.at), None)
    if first is None or step is None:
        return None
    made = [o for o in log.of(OptimizerMade) if o.optimizer == step.optimizer]
    own = made[0].parameters if made else frozenset()
    strangers = first.reached - own
    if not strangers or not own & first.reached:
        return None
    wanted = {v.id for root in event.roots for v in below(log.values, root, differentiable=True)}
    for root in first.roots:
        for value in below(log.values, root, differentiable=True):
            shared = [i for i in value.inputs if i in wanted and log.values[i].parameter is None]
            if value.id not in wanted and any(log.values[i].requires_grad for i in shared):
                return value.site, models(log, strangers)
    return None
