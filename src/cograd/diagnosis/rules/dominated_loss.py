"""One loss hardly moves what it shares with the others.

What it does:
    Measures the gradient of each addend of a loss, and of losses that are differentiated apart and stepped together,
    in the first iterations. Reports one whose share is below 1 % in each model that it shares with another: the length
    of its gradient, divided by the sum of all lengths.

Why it is bad:
    It may be meant. Else the loss is as good as absent there: at 1 %, doubling its weight turns a step by about half a
    degree. Its value says nothing of this, for a large loss can have a small gradient.

Example:
    total = loss(price(trunk(x)), cents) + loss(colour(trunk(x)), shade)  # cents are in the thousands

Use instead:
    total = loss(price(trunk(x)), cents / 1000) + loss(colour(trunk(x)), shade)
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator

from cograd.diagnosis._finding import Finding, Related
from cograd.diagnosis.rules._naming import listed
from cograd.diagnosis.rules._pulls import ENOUGH, Key, Loss, Moment, by_model, mean, moments, percent, where_added
from cograd.tracing import Log

SEVERITY = "info"
FOLLOWS = True
_SMALL = 0.01


def check(log: Log) -> Iterator[Finding]:
    """Losses with a small share of everything that they share."""
    seen: defaultdict[Key, list[tuple[Loss, dict[str, float], Loss]]] = defaultdict(list)
    for moment in moments(log):
        for loss in moment.losses:
            shares, strongest = _shares(log, moment, loss)
            if shares and strongest is not None:
                seen[loss.key].append((loss, shares, strongest))
    for found in seen.values():
        loss, _, strongest = found[-1]
        if len(found) < ENOUGH or not all(0 < share < _SMALL for _, shares, _ in found for share in shares.values()):
            continue
        share = mean([max(shares.values()) for _, shares, _ in found])
        names = listed(sorted({name for _, shares, _ in found for name in shares}))
        site = where_added(log, loss)
        yield Finding(
            site,
            f"{loss.name} supplies {percent(share)} of the gradient of {names} in the first iterations; "
            f"the largest share is that of {strongest.name}",
            f"if {loss.name} is meant to matter there, weigh it more, or bring both to one scale; if not, nothing is "
            "wrong",
            (
                Related("loss", loss.site, f"{percent(share)} of the gradient of {names}"),
                Related("loss", strongest.site, "the largest share"),
                Related("backward", loss.addend.site),
            ),
        )


def _shares(log: Log, moment: Moment, loss: Loss) -> tuple[dict[str, float], Loss | None]:
    """The share of a loss in each model that it shares, and the loss that is strongest there."""
    shares: dict[str, float] = {}
    lengths: Counter[int] = Counter()
    for model, parameters in by_model(log, loss.parameters).items():
        others = [other for other in moment.losses if other is not loss and other.parameters & parameters]
        common = frozenset(p for p in parameters if any(p in other.parameters for other in others))
        norms = {other.place: moment.norm([other], common) for other in others}
        lengths.update(norms)
        own = moment.norm([loss], common)
        if common:
            shares[model] = own / ((own + sum(norms.values())) or 1.0)
    strongest = max((o for o in moment.losses if o.place in lengths), key=lambda o: lengths[o.place], default=None)
    return shares, strongest
