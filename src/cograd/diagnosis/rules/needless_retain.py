"""A backward keeps its graph, and nothing uses it again.

What it does:
    With ``--perf``: finds calls with ``retain_graph=True`` after which no backward goes through the same graph.

Why it is bad:
    It is not wrong. What the graph saved stays in memory until the loss is computed again, and the option hides the
    error of a later backward that goes through an old graph by mistake.

Example:
    d_loss.backward(retain_graph=True)
    opt_d.step()
    g_loss = loss(disc(gen(z)), ones)
    g_loss.backward()

Use instead:
    d_loss.backward()
    opt_d.step()
    g_loss = loss(disc(gen(z)), ones)
    g_loss.backward()
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from cograd.diagnosis._finding import Finding, Related
from cograd.tracing import Backward, Log, Site, below

SEVERITY = "info"
FOLLOWS = True
PERF = True


def check(log: Log) -> Iterator[Finding]:
    """Kept graphs that no later backward shares."""
    passes = log.of(Backward)
    read = max((v.at for v in log.values.values() if v.op == "grad"), default=-1)
    judged: defaultdict[Site, list[bool | None]] = defaultdict(list)
    for i, event in enumerate(passes):
        if event.retain and "retain_graph" in event.site.text and "create_graph" not in event.site.text:
            later = passes[i + 1 :]
            judged[event.site].append(None if read >= event.at else _used(log, event, later))
    for site, answers in judged.items():
        known = [answer for answer in answers if answer is not None]
        if len(known) > 1 and not any(known) and log.outcome == "finished":
            yield Finding(
                site,
                f"{site.text} keeps its graph, and no later backward goes through it",
                "leave retain_graph=True out",
                (Related("backward", site, "keeps its graph"),),
            )


def _used(log: Log, event: Backward, later: list[Backward]) -> bool | None:
    """Whether one of the later passes goes through the graph of ``event``; None if they cannot be compared."""
    mine = _graph(log, event)
    if not mine:
        return None
    for other in later:
        theirs = _graph(log, other)
        if theirs and mine & theirs:
            return True
        if not theirs and other.steps <= event.steps + 1:
            return None
    return False


def _graph(log: Log, event: Backward) -> set[int]:
    """The operations that a pass goes through; empty if they were not all followed."""
    found = [v for root in event.roots for v in below(log.values, root, differentiable=True)]
    if any(v.op == "unseen" for v in found):
        return set()
    return {v.id for v in found if v.parameter is None}
