"""Gradients are computed, and thrown away before any step applies them.

What it does:
    With ``--perf``: finds models whose gradients from one loss are cleared in each iteration without use. Says what the
    backward takes with and without them: both are measured in turn on one graph, a few times. Where that could be
    noticed by the script, or the one is not faster than the other nearly each time, nothing is said of time.

Why it is bad:
    It is not wrong, and common in adversarial training. It costs time: the backward through those weights.

Example:
    g_loss.backward()  # also fills the gradients of the discriminator
    opt_g.step()
    opt_d.zero_grad()

Use instead:
    disc.requires_grad_(False)
    g_loss.backward()
    disc.requires_grad_(True)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from statistics import median

from cograd.diagnosis._finding import Finding, Related
from cograd.diagnosis.rules._naming import models
from cograd.diagnosis.rules._terms import applied
from cograd.tracing import Cleared, Log, Step, Timed, Use

SEVERITY = "info"
PERF = True


def check(log: Log) -> Iterator[Finding]:
    """Gradients of one backward that are dropped again and again."""
    dropped: defaultdict[object, list[tuple[Cleared, Use]]] = defaultdict(list)
    used = applied(log)
    searching = [log.optimizers[n].parameters for n in {step.optimizer for step in log.of(Step) if step.closure}]
    searched = frozenset[int]().union(*searching)  # a line search uses gradients that no step applies
    for cleared in log.of(Cleared):
        for use in cleared.dropped:
            wasted = use.parameters - searched
            if wasted and not use.parameters & used.get(use.backward, frozenset()):
                dropped[use.site].append((cleared, replace(use, parameters=wasted)))
    for seen in dropped.values():
        cleared, use = seen[0]
        if len(seen) > 1:
            name = models(log, use.parameters)
            yield Finding(
                use.site,
                f"{use.site.text} computes gradients for {name} that no step applies{_time(log, use)}",
                f"freeze {name} during this backward, or name what to differentiate: backward(inputs=...)",
                (Related("backward", use.site, "computes them"), Related("zero_grad", cleared.site, "drops them")),
            )


def _time(log: Log, use: Use) -> str:
    """What they cost, if it was measured and came out the same way nearly each time."""
    for event in log.of(Timed):
        saved = [more - less for more, less in event.seconds]
        if event.site == use.site and sum(s <= 0 for s in saved) <= (len(saved) - 1) // 5:
            whole = median(more for more, _ in event.seconds)
            return f": {100 * median(saved) / whole:.0f} % of the {1e3 * whole:.2g} ms that it takes"
    return ""
