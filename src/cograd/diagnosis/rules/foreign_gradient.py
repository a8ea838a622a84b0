"""A loss also moves a model that another optimizer trains on a loss of its own.

What it does:
    Finds a model with an optimizer and a loss of its own that is also moved by a loss which has a model and an
    optimizer of its own, and asks whether that is meant. It speaks only where gradients are applied, not where they are
    cleared, and only with the share of that loss, measured in the first iterations.

Why it is bad:
    It may be meant: an auxiliary task shapes the features of the main one. If the second model was only to read what
    the first puts out, a ``detach()`` is missing, and the first is trained to please its reader.

Example:
    features = encoder(x)
    total = loss(decoder(features), x) + loss(probe(features), y)  # probe has an optimizer of its own
    total.backward()

Use instead:
    features = encoder(x)
    total = loss(decoder(features), x) + loss(probe(features.detach()), y)
    total.backward()
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from cograd.diagnosis._finding import Finding, Related
from cograd.diagnosis.rules._naming import models, optimizer
from cograd.diagnosis.rules._pulls import ENOUGH, Key, Loss, Moment, mean, moments, percent
from cograd.tracing import Backward, Log, Site, below

SEVERITY = "info"
FOLLOWS = True


@dataclass(slots=True)
class _Unit:
    """A loss over all iterations in which it was measured: its optimizers, and what they applied of it."""

    key: Key
    times: list[tuple[Moment, tuple[Loss, ...]]] = field(default_factory=list)
    trained: dict[int, frozenset[int]] = field(default_factory=dict)

    def add(self, moment: Moment, losses: tuple[Loss, ...]) -> None:
        self.times.append((moment, losses))
        for loss in losses:
            for number, own in loss.trained.items():
                self.trained[number] = self.trained.get(number, frozenset()) | own

    @property
    def last(self) -> Loss:
        return self.times[-1][1][-1]

    def strength(self, parameters: frozenset[int]) -> float:
        return mean([moment.norm(losses, parameters) for moment, losses in self.times])

    def among(self, other: _Unit) -> bool:
        """Whether the two take turns, rather than being phases one after the other."""
        own, its = ([moment.event.at for moment, _ in unit.times] for unit in (self, other))
        return min(own) <= max(its) and min(its) <= max(own)


def check(log: Log) -> Iterator[Finding]:
    """Losses with a home, and a visit to the home of another loss."""
    whole: dict[Key, _Unit] = {}
    parts: defaultdict[Site, dict[Key, _Unit]] = defaultdict(dict)
    for moment in moments(log):
        for site in dict.fromkeys(loss.addend.site for loss in moment.losses):
            own = tuple(loss for loss in moment.losses if loss.addend.site == site)
            whole.setdefault((site,), _Unit((site,))).add(moment, own)
            for loss in own if len(own) > 1 else ():
                parts[site].setdefault(loss.key, _Unit(loss.key)).add(moment, (loss,))
    for units in (whole, *parts.values()):
        yield from _visits(log, list(units.values()))


def _visits(log: Log, units: Sequence[_Unit]) -> Iterator[Finding]:
    for unit in units:
        for foreign in unit.trained:
            owners = [u for u in units if u.trained.keys() == {foreign} and u.among(unit)]
            home = [n for n in unit.trained if not any(n in u.trained for u in units if u is not unit)]
            home = [n for n in home if not log.optimizers[n].parameters & log.optimizers[foreign].parameters]
            visited = unit.trained[foreign].intersection(*[frozenset().union(*(u.trained[foreign] for u in owners))])
            if not owners or not home or not visited or len(unit.times) < ENOUGH:
                continue
            own, theirs = unit.strength(visited), sum(u.strength(visited) for u in owners)
            if own:
                yield _finding(log, unit, owners[0], home[0], foreign, visited, own / (own + theirs))


def _finding(
    log: Log, unit: _Unit, owner: _Unit, home: int, foreign: int, visited: frozenset[int], share: float
) -> Finding:  # fmt: skip
    loss, own = unit.last, models(log, unit.trained[home])
    name, guest = models(log, visited), _called(unit)
    entries = (_entry(log, one, unit.trained[home], visited) for _, losses in unit.times for one in losses)
    place = next((entry for entry in entries if entry is not None), None)
    fix = (
        f"if it is not, detach here what comes from {name}; if it is, nothing is wrong"
        if place is not None
        else f"if it is not, freeze {name} during this backward; if it is, nothing is wrong"
    )
    return Finding(
        place or loss.site,
        f"{guest} trains {own}, and is {percent(share)} of what moves {name}, which {optimizer(log, foreign)} trains "
        f"on {_called(owner)}: is that meant?",
        fix,
        (
            Related("loss", loss.site, f"has {own} to train"),
            Related("loss", owner.last.site, f"has {name} to train"),
            Related("backward", loss.addend.site, f"fills gradients of {own} and {name}"),
        ),
    )


def _called(unit: _Unit) -> str:
    """Its name; that of the whole loss where it has several addends."""
    return unit.last.addend.loss if len(unit.key) == 1 else unit.last.name


def _entry(log: Log, loss: Loss, home: frozenset[int], visited: frozenset[int]) -> Site | None:
    """The line where what comes from the visited model alone first meets a parameter of the home."""
    roots = [v for e in log.of(Backward) if e.at == loss.addend.backward for v in loss.addend.values or e.roots]
    inside = {v.id: v for root in roots for v in below(log.values, root, differentiable=True)}
    at_home, abroad = set[int](), set[int]()  # values that depend on a parameter of the home, of the visited model
    for i in sorted(inside):
        value = inside[i]
        if value.parameter in home or at_home.intersection(value.inputs):
            at_home.add(i)
        if value.parameter in visited or abroad.intersection(value.inputs):
            abroad.add(i)
        alone = abroad.difference(at_home).intersection(value.inputs)
        if i in at_home and any(inside[k].parameter is None for k in alone):
            return value.site
    return None
