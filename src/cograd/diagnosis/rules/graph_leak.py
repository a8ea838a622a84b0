"""Graphs of earlier iterations are kept alive.

What it does:
    Finds tensors that link the graph of each iteration to that of the one before, such as a running loss, and lists
    that collect tensors with graphs, which are never differentiated.

Why it is bad:
    Memory grows with every iteration, until there is none.

Example:
    running += loss

Use instead:
    running += loss.item()
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from cograd.diagnosis._finding import Finding, Related
from cograd.diagnosis.rules._terms import taped
from cograd.tracing import Held, Log, below

SEVERITY = "warning"
FOLLOWS = True
_LINKS = 2  # iterations that have to be chained


def check(log: Log) -> Iterator[Finding]:
    """Chains on the tape that no backward goes through, and containers that grow."""
    values = log.values
    used = {v.id for _, root in taped(log) for v in below(values, root.id)}
    chains: dict[object, int] = {}
    for value in values.values():
        if not value.requires_grad or value.id in used or value.op == "parameter":
            continue
        for i in value.inputs:
            old = values[i]
            if old.op == "parameter":
                continue
            line = value.site.file, value.site.line
            if old.requires_grad and (old.site.file, old.site.line) == line and old.steps < value.steps:
                chains[line] = chains.get(line, 0) + 1
                if chains[line] == _LINKS:
                    name = value.site.target or "this tensor"
                    yield Finding(
                        value.site,
                        f"{name} keeps the graph of every iteration alive, and is never differentiated",
                        "add a number, not a tensor with a graph: use .item() or .detach()",
                        (),
                    )
    seen: dict[str, list[Held]] = {}
    for event in log.of(Held):
        seen.setdefault(event.name, []).append(event)
    for name, events in seen.items():
        counts = [e.count for e in events]
        if len(counts) > _LINKS and all(a < b for a, b in pairwise(counts[:4])):
            yield Finding(
                events[0].site,
                f"{name} collects tensors with their graphs: {counts[-1]} so far, from iterations that are over",
                "collect numbers or detached tensors: .item() or .detach()",
                (Related("collects", events[0].site),),
            )
