"""Two losses point against each other where they train the same model.

What it does:
    Measures the angle between the gradients of two losses that are stepped together, in the first iterations, on each
    model that both train. Reports a pair whose cosine there is below -0.1 each time, and below -0.2 on average. Only
    losses each of which also trains something of its own are compared: parts of one criterion, such as the real and
    the fake half of a critic's loss, or a loss and its regulariser, pull against each other by design.

Why it is bad:
    It may be in the nature of the tasks. Each then undoes some of what the other does, and their weights decide who
    wins. Random gradients of a large model are nearly orthogonal, so a clearly negative cosine is no accident. Near
    the end of training any two losses point against each other, which is why only the first iterations count.

Example:
    total = loss(near(trunk(x)), y) + loss(far(trunk(x)), -y)

Use instead:
    losses = {"near": loss(near(trunk(x)), y), "far": loss(far(trunk(x)), -y)}
    cograd.backward(losses, weighting=cograd.weighting.UPGrad())  # a direction that harms neither
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import combinations

from cograd.diagnosis._finding import Finding, Related
from cograd.diagnosis.rules._naming import listed
from cograd.diagnosis.rules._pulls import ENOUGH, Key, Loss, by_model, mean, moments, where_added
from cograd.tracing import Log

SEVERITY = "info"
FOLLOWS = True
_EACH, _MEAN = -0.1, -0.2


def check(log: Log) -> Iterator[Finding]:
    """Pairs of losses with a negative cosine on a model of both; one finding for each total."""
    seen: defaultdict[tuple[Key, Key], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    last: dict[tuple[Key, Key], tuple[Loss, Loss]] = {}
    for moment in moments(log):
        for a, b in combinations(moment.losses, 2):
            if a.parameters <= b.parameters or b.parameters <= a.parameters or not _together(a, b):
                continue
            for model, parameters in by_model(log, a.parameters & b.parameters).items():
                cosine = moment.cosine(a, b, parameters)
                if cosine is not None:
                    seen[a.key, b.key][model].append(cosine)
                    last[a.key, b.key] = a, b
    found = []
    for pair, models in seen.items():
        against = {name: mean(cs) for name, cs in models.items() if len(cs) >= ENOUGH and max(cs) < _EACH}
        against = {name: cosine for name, cosine in against.items() if cosine < _MEAN}
        if against:
            found.append((min(against.values()), pair, against))
    for _, pair, against in sorted(found, key=lambda entry: entry[0]):
        yield _finding(log, *last[pair], against)


def _together(a: Loss, b: Loss) -> bool:
    """Whether one optimizer applied both to the same parameters."""
    return any(own & b.trained.get(optimizer, frozenset()) for optimizer, own in a.trained.items())


def _finding(log: Log, a: Loss, b: Loss, against: dict[str, float]) -> Finding:
    places = listed([f"{name} (cosine {cosine:.2f})" for name, cosine in sorted(against.items())])
    return Finding(
        where_added(log, b),
        f"{a.name} and {b.name} point against each other on {places} in the first iterations",
        "if both matter, let a weighting such as cograd.weighting.UPGrad find a direction that harms neither, or share "
        "less between them; if one is there to hold the other back, nothing is wrong",
        (
            Related("loss", a.site),
            Related("loss", b.site, f"against it on {listed(sorted(against))}"),
            Related("backward", b.addend.site),
        ),
    )
