"""Measures how strongly each addend of a loss pulls at each parameter, in the first iterations."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from cograd.tracing import _beside
from cograd.tracing import _events as events
from cograd.tracing._addends import terms
from cograd.tracing._journal import Journal
from cograd.tracing._sites import Site
from cograd.tracing._values import Value, below, reached

_TIMES = 5  # per line of a backward; the first may come before operations are followed
_MANY = 8  # addends of one loss
_WINDOW = 24  # addends between two steps
_ELEMENTS = 1 << 20  # of a gradient that are kept; of larger models every n-th
_NODES = 10_000  # that are searched for an addend
_SECONDS = 10.0  # for all extra passes of a run
_RULES = "conflict, dominated-loss, foreign-gradient"

Gradient = dict[int, Tensor]  # parameter -> some of its elements


class _UnmeasuredError(Exception):
    """The addends of a loss cannot be told apart; the message says why."""


@dataclass(slots=True)
class _Pull:
    addend: events.Addend
    gradient: Gradient


class Pulls:
    """Gradients of the losses since the last optimizer step.

    A loss of one piece is read off ``.grad``, before and after. One of several addends is differentiated for each of
    them, beside the script, where that leaves no trace.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._times: Counter[Site] = Counter()
        self._window: list[_Pull] = []
        self._stride = 1
        self._spent = 0.0
        self._thread = threading.get_ident()
        self._apart: list[tuple[tuple[int, ...], Gradient]] | None = None
        self._before: Gradient | None = None
        self._reason = ""  # why the addends of this loss were not told apart

    def starting(self, site: Site, roots: tuple[Tensor, ...], plain: bool) -> None:
        """A backward is about to run, and differentiates ``roots`` as they are if it is ``plain``."""
        self._apart, self._before, self._reason = None, None, ""
        if self._times[site] >= _TIMES or threading.get_ident() != self._thread:
            return
        if len(self._window) > _WINDOW or any(pull.addend.site == site for pull in self._window):
            return
        if not self._window:
            self._stride = -(-sum(p.numel() for p, _ in self._journal.known()) // _ELEMENTS) or 1
        with _beside.unseen():
            groups = self._groups(roots) if plain else []
            if self._share(groups):
                try:
                    self._apart = list(self._measured(roots[0], groups))
                except _UnmeasuredError as reason:
                    self._reason = str(reason)
            if self._apart is None:
                self._before = self._kept((n, p.grad) for p, n in self._journal.known())

    def happened(self, event: events.Event) -> None:
        """A backward has run, or an optimizer steps."""
        if isinstance(event, events.Backward):
            self._ran(event)
        elif isinstance(event, events.Step) and self._window:
            self._close(event)

    def _ran(self, event: events.Backward) -> None:
        apart, before = self._apart, self._before
        self._apart = self._before = None
        if event.error or not event.reached:
            return
        if self._reason:
            self._journal.log.unchecked.setdefault(_RULES, f"not for every loss, because {self._reason}")
        if before is not None:
            with _beside.unseen():
                after = self._kept((n, p.grad) for p, n in self._journal.known() if n in event.reached)
                apart = [((), {n: g - before[n] if n in before else g for n, g in after.items()})]
        for values, gradient in apart or ():
            arrived = frozenset(gradient) & event.reached
            addend = events.Addend(event.at, event.site, event.loss, values, arrived)
            self._window.append(_Pull(addend, {n: gradient[n] for n in arrived}))
        self._times[event.site] += apart is not None

    def _close(self, step: events.Step) -> None:
        pulls, self._window = self._window, []
        inner = {}
        with _beside.unseen():
            for n in frozenset().union(*(pull.addend.reached for pull in pulls)):
                found = _inner([pull.gradient.get(n) for pull in pulls])
                if found:
                    inner[n] = found
        addends = tuple(pull.addend for pull in pulls)
        self._journal.append(events.Pulled(self._journal.tick(), addends[-1].site, addends, inner))

    # -- the addends of a loss

    def _groups(self, roots: tuple[Tensor, ...]) -> list[list[Value]]:
        """Its addends. Several that one line made for different parameters are one, such as norms of weights."""
        values = self._journal.tape.values
        root = self._journal.tape.value_of(roots[0]) if len(roots) == 1 and roots[0].numel() == 1 else None
        if root is None:
            return []
        groups: list[tuple[list[Value], set[int]]] = []
        for term in terms(values, root):
            if not term.requires_grad or term.sequence is None:
                continue
            own = reached(values, term.id)
            for group, held in groups:
                same = group[0].sequence == term.sequence  # one operation with several results
                if group[0].site == term.site and (same or held.isdisjoint(own)):
                    group.append(term)
                    held |= own
                    break
            else:
                groups.append(([term], set(own)))
        return [group for group, held in groups if held]

    def _share(self, groups: Sequence[Sequence[Value]]) -> bool:
        """Whether two of them train the same parameter."""
        seen: set[int] = set()
        for group in groups:
            own = {p for term in group for p in reached(self._journal.tape.values, term.id)}
            if seen & own:
                return True
            seen |= own
        return False

    def _measured(
        self, root: Tensor, groups: Sequence[Sequence[Value]]
    ) -> Iterator[tuple[tuple[int, ...], Gradient]]:  # fmt: skip
        if len(groups) > _MANY:
            raise _UnmeasuredError(f"a loss has more than {_MANY} addends")
        if self._spent > _SECONDS:
            raise _UnmeasuredError("it takes too long")
        if not _beside.followed(self._journal.tape.values, [self._journal.tape.value_of(root)]):
            raise _UnmeasuredError("some operations were not seen")
        graph = _beside.look([root])
        if graph.obstacle:
            raise _UnmeasuredError(graph.obstacle)
        begin = time.perf_counter()
        numbers = [self._journal.numbers.get(leaf) for leaf in graph.leaves]
        leaves = [(n, leaf) for n, leaf in zip(numbers, graph.leaves, strict=True) if n is not None]
        try:
            made = {term.sequence: term.id for group in groups for term in group if term.sequence is not None}
            edges = {number: _edges(root, number) for number in made}
            arriving = self._arriving(root, edges, made)
            for group in groups:
                places = [number for number in edges if any(term.sequence == number for term in group)]
                own = [edge for number in places for edge in edges[number]]
                given = [g for number in places for g in arriving[number]]
                got = _beside.gradients(own, [leaf for _, leaf in leaves], given)
                pairs = ((n, g) for (n, _), g in zip(leaves, got, strict=True))
                yield tuple(term.id for term in group), self._kept(pairs)
        except (RuntimeError, ValueError) as error:  # the script's own backward will say the same, or succeed
            raise _UnmeasuredError(f"torch says: {str(error).partition(chr(10))[0]}") from error
        finally:
            self._spent += time.perf_counter() - begin

    def _arriving(
        self, root: Tensor, edges: Mapping[int, Sequence[GradientEdge]], made: Mapping[int, int]
    ) -> dict[int, list[Tensor]]:
        """What arrives at each addend from the sum itself, not through another addend that it is part of."""
        values, found = self._journal.tape.values, dict[int, list[Tensor]]()
        for number in sorted(edges, reverse=True):
            arrived = _beside.gradients([root], edges[number])
            above = [n for n in found if any(v.sequence == number for v in below(values, made[n]))]
            through = [_beside.gradients(edges[n], edges[number], found[n]) for n in above]
            found[number] = [_difference(total, parts) for total, *parts in zip(arrived, *through, strict=True)]
        return found

    def _kept(self, gradients: Iterable[tuple[int, Tensor | None]]) -> Gradient:
        found = {}
        for n, g in gradients:
            if g is not None and g.layout is torch.strided:
                flat = (torch.view_as_real(g) if g.is_complex() else g).reshape(-1)[:: self._stride]
                found[n] = flat.to("cpu", torch.float32, copy=True)
        return found


def _difference(total: Tensor | None, parts: Sequence[Tensor | None]) -> Tensor:
    if total is None:
        raise _UnmeasuredError("an addend is not found in the graph")
    for part in parts:
        total = total if part is None else total - part
    return total


def _edges(root: Tensor, wanted: int) -> list[GradientEdge]:
    """Where the results of the operation with this number enter the sum that ``root`` is."""
    found: dict[tuple[object, int], GradientEdge] = {}
    seen = {root.grad_fn}
    stack = [root.grad_fn]
    while stack and len(seen) < _NODES:
        node = stack.pop()
        for lower, place in () if node is None else node.next_functions:
            number = -1 if lower is None else lower._sequence_nr()
            if lower is not None and number == wanted:
                found[lower, place] = GradientEdge(lower, place)
            elif lower not in seen and number > wanted:
                seen.add(lower)
                stack.append(lower)
    if not found:
        raise _UnmeasuredError("an addend is not found in the graph")
    return list(found.values())


def _inner(gradients: Sequence[Tensor | None]) -> tuple[tuple[float, ...], ...]:
    """All inner products, where those that are missing are zero; empty if one is not finite."""
    own = [(k, g.double()) for k, g in enumerate(gradients) if g is not None]
    total = torch.zeros(len(gradients), len(gradients), dtype=torch.float64)
    if len({len(g) for _, g in own}) > 1:
        return ()
    at = torch.tensor([k for k, _ in own])
    rows = torch.stack([g for _, g in own])
    total[at[:, None], at] = rows @ rows.T
    found = tuple(tuple(row) for row in total.tolist())
    return found if all(isfinite(x) for row in found for x in row) else ()
