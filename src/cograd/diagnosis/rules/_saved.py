"""Which line of the script made an autograd node."""

from __future__ import annotations

from bisect import bisect_left

from cograd.tracing import Log, Site


def forward_site(log: Log, sequence: int) -> Site | None:
    """The line of the operation with this number, as far as the tape knows it."""
    known = sorted((v.sequence, v.id) for v in log.values.values() if v.sequence is not None)
    at = bisect_left(known, (sequence, -1))
    if at == len(known) or known[at][0] - sequence > 50:
        return None
    return log.values[known[at][1]].site
