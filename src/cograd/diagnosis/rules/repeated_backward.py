"""One loss is differentiated twice, with a step between.

What it does:
    Finds a loss of which ``backward`` is called again after an optimizer has stepped, without computing it anew.

Why it is bad:
    It looks as if the models took turns, each meeting the other as it has become. They do not: the second gradient is
    that of the old weights. It is one simultaneous update, at twice the cost.

Example:
    loss.backward(retain_graph=True)
    opt_a.step()
    opt_b.zero_grad()
    loss.backward()
    opt_b.step()

Use instead:
    loss.backward()
    opt_a.step()
    opt_b.step()
"""

from __future__ import annotations

from collections.abc import Iterator

from cograd.diagnosis._finding import Finding, Related
from cograd.diagnosis.rules._naming import models
from cograd.tracing import Backward, Log, Step

SEVERITY = "info"
FOLLOWS = True


def check(log: Log) -> Iterator[Finding]:
    """Pairs of backward passes of one value, the first of which was applied before the second."""
    told = set()
    passes = [event for event in log.of(Backward) if event.roots and not event.error]
    for new in passes:
        old = next((e for e in reversed(passes) if e.at < new.at and e.roots == new.roots), None)
        if old is None or new.stale or new.site in told or not old.reached & new.reached:
            continue
        first, second = _applied(log, old, new.at), _applied(log, new, None)
        if first is None or second is None or first.optimizer == second.optimizer or first.at > new.at:
            continue
        told.add(new.site)
        moved = models(log, (p for use in first.uses if use.backward == old.at for p in use.parameters))
        yield Finding(
            new.site,
            f"{new.loss} is differentiated again after {first.site.text}, without computing it anew: it does not see "
            f"what became of {moved}",
            f"to take turns, compute {new.loss} again after line {first.site.line}; to update both at once, call "
            "backward once, then step both",
            (
                Related("backward", old.site, "computes the gradients of all models"),
                Related("step", first.site, "moves one"),
                Related("backward", new.site, "computes the same gradients again"),
                Related("step", second.site, "moves the other"),
            ),
        )


def _applied(log: Log, event: Backward, before: int | None) -> Step | None:
    """The first step that applied what this backward made, up to a moment."""
    found = (s for s in log.of(Step) if any(u.backward == event.at and not u.again for u in s.uses))
    return next((s for s in found if before is None or s.at < before), None)
