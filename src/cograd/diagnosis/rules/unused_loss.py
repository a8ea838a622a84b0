"""A loss is computed from trained parameters, and never differentiated.

What it does:
    Finds scalars that are called a loss, penalty or regulariser, are computed in each training iteration with a
    graph, and are part of no loss that is differentiated. What a function returns is known by the variable of its
    caller.

Why it is bad:
    The term is computed, perhaps printed, and has no effect: it was not added to the total.

Example:
    kl = kl_divergence(mu, log_var)
    loss = reconstruction
    loss.backward()

Use instead:
    loss = reconstruction + beta * kl
    loss.backward()
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator

from cograd.diagnosis._finding import Finding, Related
from cograd.diagnosis.rules._cuts import numbers
from cograd.diagnosis.rules._naming import models
from cograd.diagnosis.rules._terms import taped
from cograd.tracing import ESCAPES, Log, Site, Value, below, reached, variable

SEVERITY = "warning"
FOLLOWS = True
_NAME = re.compile(
    r"(loss|penalty|regul|(^|_)(reg|gp|kl|kld|adv|aux|l1|l2|tv|entropy|cycle|consistency|hint)(_|$))", re.I
)
_METRIC = re.compile(r"(val|valid|eval|test|metric|log|mae|acc|best|total|sum|avg|mean|run|epoch|hist)", re.IGNORECASE)


def check(log: Log) -> Iterator[Finding]:
    """Scalars with a graph and the name of a loss, below no backward, in several iterations."""
    values = log.values
    roots = list(taped(log))
    if not roots:
        return
    used = {v.id for _, root in roots for v in below(values, root.id)}
    read = {i for _, _, reading in numbers(log) for i in reading.inputs}  # in the total, as a number: cut-term
    consumed = {i for v in values.values() for i in v.inputs if v.op not in ("item", "detach", "__float__", "data")}
    trained = frozenset(p for event, _ in roots for p in event.reached)
    last = max(event.at for event, _ in roots)
    unused: defaultdict[tuple[Site, str], list[Value]] = defaultdict(list)
    numbered = {(i, v.site.line) for v in values.values() if v.op in ESCAPES for i in v.inputs}
    for value in values.values():
        if value.id in used | read | consumed or not value.requires_grad or value.shape or value.at > last:
            continue
        site, name = variable(value)
        if (value.id, site.line) in numbered:
            continue  # a number for the log is all that is kept of it
        if value.grad_mode and name and _NAME.search(name) and not _METRIC.search(name):
            unused[site, name].append(value)
    used_sites = {variable(values[i])[0] for i in used}
    for (site, name), seen in unused.items():
        value = seen[0]
        affected = reached(values, value.id) & trained
        if seen[0].site in {values[i].site for i in read}:
            continue
        if len({v.steps for v in seen}) < 2 or not affected or site in used_sites:
            continue
        event = roots[0][0]
        yield Finding(
            site,
            f"{name} is computed from {models(log, affected)} in each iteration, and is part of no loss "
            "that is differentiated",
            f"add it to the loss: {event.loss} + weight * {name}; or compute it under no_grad",
            (Related("backward", event.site, f"differentiates {event.loss} without it"),),
        )
