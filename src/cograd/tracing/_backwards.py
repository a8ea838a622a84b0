"""Records backward passes: what they gave to whom, and what they found overwritten or freed."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from cograd.tracing import _events as events
from cograd.tracing import _nodes
from cograd.tracing._gradstate import Contribution
from cograd.tracing._journal import Journal
from cograd.tracing._log import FEW
from cograd.tracing._objects import Numbers
from cograd.tracing._sites import NOWHERE, Site, here


class Backwards:
    """The backward passes of a script.

    Attributes:
        counts: how often each line ran.
        versions: of the parameters that the last one reached.
        first_versions: of each parameter, when it was first there at a backward.
        last: each parameter there was at the last one: whether it required grad, is an ``nn.Parameter``, its version.
        since: optimizer -> the backward passes since its last step.
        written: address of a parameter that was written -> sequence number, parameter, line of the step or write.
        scaling: whether a GradScaler scaled a loss.
        starting: called before each, with its line, what is differentiated, and whether that is all that was given.
        new_line: called before the first at a line.
    """

    def __init__(self, journal: Journal) -> None:
        self.counts: Counter[Site] = Counter()
        self.versions: dict[int, int] = {}
        self.first_versions: dict[int, int] = {}
        self.last: dict[int, tuple[bool, bool, int]] = {}
        self.since: defaultdict[int, list[int]] = defaultdict(list)
        self.written: dict[int, tuple[int, int, Site]] = {}
        self.scaling = False
        self.starting: Callable[[Site, tuple[Tensor, ...], bool], Any] = lambda site, roots, plain: None
        self.new_line: Callable[[], Any] = lambda: None
        self._journal = journal
        self._scaled: Numbers[Any] = Numbers()
        self._blank: frozenset[int] = frozenset()
        self._lines: dict[int, Site] = {}  # recent backward -> site

    def scaled(self, loss: Any) -> None:
        """A GradScaler scaled a loss."""
        self.scaling = True
        for one in loss if isinstance(loss, (list, tuple)) else (loss,):
            self._scaled.of(one)

    def overwrote(self, tensors: Iterable[tuple[Tensor, int]], site: Site) -> None:
        """The memory of these parameters was written, by a step or past the eyes of torch."""
        now = 0 if self._journal.missing else _nodes.sequence()
        for tensor, number in tensors:
            self.written[tensor.untyped_storage().data_ptr()] = now, number, site
        while len(self.written) > 20_000:
            del self.written[next(iter(self.written))]

    def run(self, roots: tuple[Tensor, ...], retain: bool, plain: bool, ones: bool, run: Callable[[], Any]) -> Any:
        """Record a backward pass that ``run`` makes."""
        site, facts = here(), None
        with self._journal.guarded():
            facts = self._before(site, roots)
            self.starting(site, roots, plain)
        with self._journal.tape.resting():
            try:
                result = run()
            except BaseException as error:
                with self._journal.guarded():
                    self._after(site, roots, retain, ones, facts, error)
                raise
        with self._journal.guarded():
            self._after(site, roots, retain, ones, facts, None)
        return result

    def _before(self, site: Site, roots: tuple[Tensor, ...]) -> tuple[events.Stale, ...]:
        self.counts[site] += 1
        known = self._journal.known()
        self._journal.grads.settle(known)
        self._blank = frozenset(n for p, n in known if p.grad is None)
        self.last = {n: (p.requires_grad, isinstance(p, nn.Parameter), p._version) for p, n in known}
        for p, n in known:
            if n not in self.first_versions:
                self._journal.number(p)
                self.first_versions[n] = p._version
        if self.counts[site] == 1:
            self.new_line()
        if self._journal.missing or self.counts[site] > FEW:
            return ()
        addresses = _nodes.overwritten(roots, {a: w[0] for a, w in self.written.items()})
        stale = tuple(events.Stale(self.written[a][1], number, self.written[a][2]) for a, number in addresses.items())
        return tuple(sorted(stale, key=lambda s: s.sequence))

    def _after(
        self, site: Site, roots: tuple[Tensor, ...], retain: bool, ones: bool,
        stale: tuple[events.Stale, ...] | None, error: BaseException | None,
    ) -> None:  # fmt: skip
        at = self._journal.tick()
        self._lines[at] = site
        if len(self._lines) > 500:
            del self._lines[next(iter(self._lines))]
        loss = _loss_name(site)
        early = self.counts[site] <= FEW
        freed = None
        if early and not self._journal.missing and error is None:
            _nodes.mark(roots, at)
        elif error is not None and not self._journal.missing:
            mark = _nodes.marked(roots)
            freed = None if mark is None else (mark[0], self._lines.get(mark[1], NOWHERE))
        known = self._journal.known()
        reached = self._journal.grads.added(known, Contribution(at, site, loss))
        self.versions = {n: p._version for p, n in known if n in reached} if early else {}
        value = self._scalar(roots)
        look = early or (value is not None and value - value != 0)
        grads = [(n, p.grad) for p, n in known if n in reached and p.grad is not None] if look else []
        dense = [(n, g.detach()) for n, g in grads if g.layout is torch.strided]
        for waiting in self.since.values():
            waiting.append(at)
            del waiting[:-20]
        self._journal.append(
            events.Backward(
                at, site, loss, tuple(v for t in roots if (v := self._journal.tape.value_of(t)) is not None),
                tuple(roots[0].shape) if roots else (), any(t.grad_fn is not None for t in roots),
                any(t.is_leaf for t in roots), value, reached,
                frozenset(n for n, g in dense if n in self._blank and not g.any()),
                frozenset(n for n, g in dense if not g.isfinite().all()),
                stale or (), freed, retain, "" if error is None else str(error), self._journal.steps,
                any(self._scaled.get(t) is not None for t in roots) if self.scaling else None,
                early and self._journal.names.evaluating(reached), ones,
            )
        )  # fmt: skip

    def _scalar(self, roots: tuple[Tensor, ...]) -> float | None:
        if len(roots) != 1 or roots[0].numel() != 1 or roots[0].device.type != "cpu":
            return None
        return float(roots[0].detach().item())


def _loss_name(site: Site) -> str:
    if site.receiver and site.receiver != "torch.autograd":
        return site.receiver
    return site.text
