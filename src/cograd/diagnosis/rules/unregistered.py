"""Modules or parameters in a plain list or dict, which ``parameters()`` does not see.

What it does:
    Finds parameters that get gradients and are held only by a Python list, tuple or dict of a module.

Why it is bad:
    No optimizer gets them, ``.to(device)`` does not move them, and they are not in the state dict.

Example:
    self.heads = [nn.Linear(64, 10) for _ in range(3)]

Use instead:
    self.heads = nn.ModuleList(nn.Linear(64, 10) for _ in range(3))
"""

from __future__ import annotations

from collections.abc import Iterator

from cograd.diagnosis._finding import Finding, Related
from cograd.diagnosis.rules._orphans import orphans
from cograd.tracing import Log

SEVERITY = "error"


def check(log: Log) -> Iterator[Finding]:
    """Trained parameters that are hidden in a container."""
    for group in orphans(log):
        if not group.hidden:
            continue
        number = min(group.parameters)
        first = log.put.get(number, log.parameters[number].made)
        yield Finding(
            first,
            f"{group.hidden} is a plain list or dict: no optimizer holds the parameters in it, although "
            f"{group.backward.loss} gives them gradients",
            "use nn.ModuleList, nn.ModuleDict, nn.ParameterList or nn.ParameterDict",
            (
                Related("optimizer", log.optimizers[group.optimizer].made, "does not hold them"),
                Related("backward", group.backward.site, "gives them gradients"),
            ),
        )
