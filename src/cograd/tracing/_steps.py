"""Records what optimizers do with gradients: steps, and what clears or clips them before."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from cograd.tracing import _events as events
from cograd.tracing._backwards import Backwards
from cograd.tracing._held import holding
from cograd.tracing._journal import Journal
from cograd.tracing._log import FEW
from cograd.tracing._sites import Site, here, user_frames


class Steps:
    """The optimizers of a script, and their steps.

    Attributes:
        counts: how often each optimizer stepped.
        skipped: how often a GradScaler did not let it.
        kinds: class of each optimizer, and where it was made.
        held: what each optimizer holds.
        sites: where each parameter was last stepped.
        scaler: whether a GradScaler is calling.
        unscaled: optimizers whose gradients a GradScaler has unscaled.
        cleared: called after gradients were cleared.
        stepped: called after each step.
    """

    def __init__(self, journal: Journal, backwards: Backwards) -> None:
        self.counts: Counter[int] = Counter()
        self.skipped: Counter[int] = Counter()
        self.kinds: dict[int, tuple[str, Site]] = {}
        self.held: dict[int, frozenset[int]] = {}
        self.sites: dict[int, Site] = {}
        self.scaler = False
        self.unscaled: set[int] = set()
        self.cleared: Callable[[], Any] = lambda: None
        self.stepped: Callable[[], Any] = lambda: None
        self._journal, self._backwards = journal, backwards
        self._open: defaultdict[int, list[tuple[int, set[int]]]] = defaultdict(list)  # thread -> steps that are running

    def held_by(self, optimizer: Optimizer) -> list[tuple[Tensor, int]]:
        """What an optimizer holds."""
        found = [(p, self._journal.number(p)) for group in optimizer.param_groups for p in group["params"]]
        self.held[self._journal.optimizers.of(optimizer)] = frozenset(n for _, n in found)
        return found

    def made(self, optimizer: Optimizer) -> None:
        """An optimizer was made, or given parameters."""
        n, site = self._journal.optimizers.of(optimizer), here()
        held = frozenset(number for _, number in self.held_by(optimizer))
        self.kinds.setdefault(n, (type(optimizer).__name__, site))
        if site.target:
            self._journal.names.optimizers.setdefault(n, site.target.removeprefix("self."))
        self._backwards.since[n]  # from now on
        self._journal.append(events.OptimizerMade(self._journal.tick(), site, n, type(optimizer).__name__, held))

    def before(self, optimizer: Optimizer, closure: bool) -> None:
        """An optimizer is about to step."""
        self._open[threading.get_ident()].append((self._journal.optimizers.of(optimizer), set()))
        if not closure:
            self._record_step(optimizer, closure, frozenset())

    def _inside(self, optimizer: int, written: Iterable[int]) -> set[int]:
        """What steps inside this one have stepped, such as that of an optimizer which it wraps."""
        running = self._open[threading.get_ident()]
        inner: set[int] = set()
        while running:
            number, inner = running.pop()
            if number == optimizer:
                break
        for _, within in running:
            within.update(written)
        return inner

    def _record_step(self, optimizer: Optimizer, closure: bool, inner: Collection[int]) -> None:
        site, n = here(), self._journal.optimizers.of(optimizer)
        held = [(p, k) for p, k in self.held_by(optimizer) if k not in inner]
        self._journal.grads.settle(held)
        graded = [number for p, number in held if p.grad is not None]
        uses = self._journal.grads.uses(graded, n)
        early = self.counts[n] < FEW
        infinite = frozenset(k for p, k in held if early and p.grad is not None and _infinite(p.grad))
        self._journal.append(
            events.Step(
                self._journal.tick(), site, n, uses,
                frozenset(k for p, k in held if p.grad is None and p.requires_grad),
                frozenset(k for p, k in held if not p.requires_grad),
                self._journal.grads.unknown(graded), infinite, closure, self.scaler, tuple(self._backwards.since[n]),
                    n in self.unscaled,
                frozenset(k for p, k in held if early and p.grad is not None and self._drifts(optimizer, p, k)),
            )
        )  # fmt: skip
        self._backwards.since[n].clear()
        if early:
            for name, count, where in holding(user_frames()):
                self._journal.append(events.Held(self._journal.tick(), where, name, count))
        self.unscaled.discard(n)

    def _drifts(self, optimizer: Optimizer, parameter: Tensor, number: int) -> bool:
        if parameter.requires_grad or not self._journal.grads.cleared(number):
            return False
        group = next(g for g in optimizer.param_groups if any(p is parameter for p in g["params"]))
        state = optimizer.state.get(parameter, {})
        momenta = [state.get(name) for name in ("momentum_buffer", "exp_avg")]
        return bool(group.get("weight_decay")) or any(isinstance(m, Tensor) and bool(m.any()) for m in momenta)

    def after(self, optimizer: Optimizer, closure: bool) -> None:
        """An optimizer has stepped."""
        site, n = here(), self._journal.optimizers.of(optimizer)
        held = self.held_by(optimizer)
        inner = self._inside(n, {k for p, k in held if p.grad is not None})
        if closure and not (inner and inner.issuperset(k for _, k in held)):
            self._record_step(optimizer, closure, inner)
        graded = [(p, number) for p, number in held if p.grad is not None and number not in inner]
        self._journal.grads.apply([number for _, number in graded], n)
        self._backwards.overwrote(graded, site)
        self.sites |= dict.fromkeys((number for _, number in graded), site)
        self.counts[n] += 1
        self._journal.steps += 1
        self.stepped()

    def skip(self, optimizer: Optimizer) -> None:
        """A GradScaler did not step, because a gradient was not finite."""
        self._journal.grads.apply([n for _, n in self.held_by(optimizer)], self._journal.optimizers.of(optimizer))
        self.skipped[self._journal.optimizers.of(optimizer)] += 1

    def clearing(self, parameters: Iterable[Tensor], owner: int | None, run: Callable[[], Any]) -> Any:
        """Record that ``run`` clears the gradients of ``parameters``."""
        site, moved = here(), False
        held: list[tuple[Tensor, int]] = []
        dropped: tuple[events.Use, ...] = ()
        with self._journal.guarded():
            held = [(p, self._journal.number(p)) for p in parameters]
            self._journal.grads.settle(held)
            dropped = tuple(u for u in self._journal.grads.uses([n for _, n in held], None) if u.again == 0)
            moved = bool(dropped) and any(p._version != self._backwards.versions.get(n, p._version) for p, n in held)
        result = run()
        with self._journal.guarded():
            self._journal.grads.clear(held)
            self.cleared()
            self._journal.append(
                events.Cleared(self._journal.tick(), site, owner, frozenset(n for _, n in held), dropped, moved)
            )
        return result

    def clipped(self, parameters: list[Tensor]) -> None:
        """Gradients were clipped."""
        numbers = [self._journal.number(p) for p in parameters]
        applied = self._journal.grads.all_applied(numbers)
        site = next((self.sites[n] for n in numbers if n in self.sites), None)
        self._journal.append(events.Clipped(self._journal.tick(), here(), frozenset(numbers), applied, site))


def _infinite(grad: Tensor) -> bool:
    return grad.layout is torch.strided and not bool(grad.detach().isfinite().all())
