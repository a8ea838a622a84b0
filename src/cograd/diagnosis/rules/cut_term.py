"""An addend of a loss has no effect, because its gradient is cut on the way.

What it does:
    Takes each loss apart into its addends, and follows each down to the parameters that the loss trains. Reports an
    addend that depends on them while its gradient reaches none, with the line of the cut: ``detach``, ``.data``,
    ``no_grad``, ``item()``, NumPy, a new tensor made from an old one, a cast to integers, ``argmax``, or a ``sample()``
    without reparametrisation.

Why it is bad:
    The term is printed and part of the total, and changing its weight changes nothing.

Example:
    fake = gen(z)
    seen = fake.detach()
    d_loss = loss(disc(seen), zeros)
    g_loss = l1(fake, target) + loss(disc(seen), ones)

Use instead:
    g_loss = l1(fake, target) + loss(disc(fake), ones)
"""

from __future__ import annotations

from collections.abc import Iterator

from cograd.diagnosis._finding import Finding, Related
from cograd.diagnosis.rules import _cuts
from cograd.diagnosis.rules._naming import models
from cograd.diagnosis.rules._terms import applied, taped, terms
from cograd.tracing import Log, Site, reached

SEVERITY = "error"
FOLLOWS = True
COVERS = ("unreached-model", "unused-loss")
_REWRAPS = ("tensor", "as_tensor", "asarray", "from_numpy")
_ACCIDENTS = ("sample", "number", "rewrap", "integer")


def check(log: Log) -> Iterator[Finding]:
    """Addends that move nothing, and numbers that used to be losses."""
    for found in _cuts.inert(log):
        if found.cut.kind != "grad":
            site = found.term.site
            what = site.text if site.target == found.backward.loss else site.target or site.text
            yield _finding(log, found.site, what, found.wanted, found)
    yield from _numbers(log)
    yield from _partly(log)


def _finding(
    log: Log, site: Site, what: str, wanted: frozenset[int], found: _cuts.Inert
) -> Finding:  # fmt: skip
    names = models(log, wanted)
    return Finding(
        site,
        f"{what} is part of {found.backward.loss}, but sends no gradient to {names}: {found.cut.phrase} "
        f"at line {found.cut.value.site.line}",
        _fix(found.cut, site),
        _cuts.story(found.backward, found.cut),
    )


def _fix(found: _cuts.Cut, site: Site) -> str:
    if site != found.value.site and found.kind in ("detach", "data", "no_grad"):
        return f"use here a value that is not cut; the cut at line {found.value.site.line} is right for the other loss"
    remedies = {
        "detach": "remove the detach(), or leave this term out of the loss",
        "data": "remove the .data",
        "number": "keep the tensor in the loss, and read numbers from it only for logging",
        "sample": "draw with rsample(), or use the log-probability of the sample as the loss",
        "rewrap": "use the tensor itself; torch.stack joins several",
        "no_grad": "compute it outside no_grad",
        "integer": "use a differentiable form, such as softmax in place of argmax",
    }
    return remedies.get(found.kind, "keep the operations between the model and the loss differentiable")


def _numbers(log: Log) -> Iterator[Finding]:
    stepped = applied(log)
    for event, total, reading in _cuts.numbers(log):
        trained = stepped.get(event.at, frozenset())
        trained |= frozenset(p for o in log.optimizers.values() if o.parameters & trained for p in o.parameters)
        wanted = reached(log.values, reading.id, differentiable=False) & trained
        if wanted:
            yield Finding(
                reading.site,
                f"{reading.site.text} enters {event.loss} as a plain number: it sends no gradient to "
                f"{models(log, wanted)}",
                "keep the tensor in the loss, and read numbers from it only for logging",
                (
                    Related("cut", reading.site, "read as a number"),
                    Related("sum", total.site, "added to the loss"),
                    Related("backward", event.site),
                ),
            )


def _partly(log: Log) -> Iterator[Finding]:
    """Addends that reach some of what is trained, and miss a model behind a cut that nobody makes on purpose."""
    stepped = applied(log)
    for event, root in taped(log):
        trained = stepped.get(event.at, frozenset())
        for term in terms(log.values, root.id):
            direct = reached(log.values, term.id)
            if not direct & trained:
                continue
            for name in {log.parameters[p].model for p in trained if p in log.parameters} - {""}:
                model = frozenset(p for p in trained if log.parameters[p].model == name)
                missed = reached(log.values, term.id, differentiable=False) & model
                if not missed or direct & model:
                    continue
                cut = _cuts.cut(log.values, term.id, missed)
                if cut is None or any(v.op in _REWRAPS and not v.shapes for v in cut.path):
                    continue  # a new tensor that may or may not be made of it
                if (
                    cut is not None
                    and cut.kind in _ACCIDENTS
                    and not (cut.kind == "integer" and not cut.value.grad_mode)
                ):
                    site = _cuts.primary(log, cut, event)
                    inert = _cuts.Inert(event, term, cut, missed, site, only=False)
                    yield _finding(log, site, term.site.target or term.site.text, missed, inert)
