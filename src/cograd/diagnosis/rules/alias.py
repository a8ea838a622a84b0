"""Two names for one module, where two modules were meant.

What it does:
    Finds layers that a list holds several times, such as ``[layer] * n``, and a target or teacher network that is
    the online network itself.

Why it is bad:
    The layers share their weights. The target moves with the network that is trained towards it.

Example:
    self.heads = nn.ModuleList([nn.Linear(64, 10)] * 3)
    target = online

Use instead:
    self.heads = nn.ModuleList(nn.Linear(64, 10) for _ in range(3))
    target = copy.deepcopy(online)
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from cograd.diagnosis._finding import Finding, Related
from cograd.diagnosis.rules._assignments import assignment
from cograd.tracing import Aliased, Log, Step

SEVERITY = "error"
_COPY = re.compile(r"(target|teacher|ema|frozen|old|reference|shadow|momentum|avg|average|slow|key)", re.IGNORECASE)


def check(log: Log) -> Iterator[Finding]:
    """Modules with two names of which one is stepped."""
    for event in log.of(Aliased):
        yield Finding(
            event.site,
            f"{event.site.text} holds one module several times: its parts share their weights",
            "make each of them anew, or copy it: copy.deepcopy(layer) for each",
        )
    steps = log.of(Step)
    for second, first in log.aliases.items():
        copy, online = (second, first) if _named_as_copy(second) else (first, second)
        if not _named_as_copy(copy) or _named_as_copy(online) or not steps:
            continue
        site = assignment(steps[0].site.file, copy, online)
        if site is not None:
            yield Finding(
                site,
                f"{copy} is {online} itself, not a copy: it moves whenever {online} is trained",
                f"{copy} = copy.deepcopy({online})",
                (Related("step", steps[0].site, "moves both"),),
            )


def _named_as_copy(name: str) -> bool:
    return _COPY.search(name.rpartition(".")[2]) is not None
