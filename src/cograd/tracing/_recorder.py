"""Records what a training script does with gradients, for as long as it is entered."""

from __future__ import annotations

import os
import threading
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cograd.tracing import _events as events
from cograd.tracing import _log as log
from cograd.tracing import _nodes
from cograd.tracing._calls import caller
from cograd.tracing._gradstate import Contribution, GradState
from cograd.tracing._held import holding
from cograd.tracing._log import FEW, Log
from cograd.tracing._names import Names
from cograd.tracing._objects import Numbers
from cograd.tracing._sites import NOWHERE, Site, here, of_traceback, user_frames
from cograd.tracing._tape import Tape

_TAPED = 4  # steps of an optimizer, and occurrences of a backward, for which operations are recorded


class Recorder:
    """The state of a recording. What happens is reported to it by hooks.

    Attributes:
        log: the events so far.
        tape: the operations of the first iterations.
    """

    def __init__(self) -> None:
        self.log = Log()
        self.numbers: Numbers[Tensor] = Numbers()
        self.optimizers: Numbers[Optimizer] = Numbers()
        self.names = Names(self.numbers, self.optimizers)
        self.grads = GradState(self.numbers)
        self.steps = 0
        self.scaler = False
        self.scaling = False
        self.unscaled: set[int] = set()
        self._scaled: Numbers[Any] = Numbers()
        self.on_step: Callable[[int], None] | None = None
        self.missing = _nodes.missing()
        self._at = 0
        self._lock = threading.RLock()
        self._pid, self._thread = os.getpid(), threading.get_ident()
        self._backwards: Counter[Site] = Counter()
        self._versions: dict[int, int] = {}  # of the parameters that the last backward reached
        self._by_hand: set[int] = set()
        self._blank: frozenset[int] = frozenset()
        self._stepped: Counter[int] = Counter()
        self._skipped: Counter[int] = Counter()
        self._open: defaultdict[int, list[tuple[int, set[int]]]] = defaultdict(list)  # thread -> steps that are running
        self._since: defaultdict[int, list[int]] = defaultdict(list)
        self._lines: dict[int, Site] = {}  # recent backward -> site
        self._written: dict[int, tuple[int, int, Site, int]] = {}  # address -> sequence, parameter, step, optimizer
        self._made: dict[int, Site] = {}
        self._kinds: dict[int, tuple[str, Site]] = {}
        self._held: dict[int, frozenset[int]] = {}
        self._loaded: set[int] = set()
        self._follows: set[int] = set()
        self._first_version: dict[int, int] = {}
        self._shapes: dict[int, tuple[int, ...]] = {}
        self._step_sites: dict[int, Site] = {}
        self.tape = Tape(
            self.numbers, lambda: (self._at, self.steps), self.failed, self._made_leaf, self._flag, self._wrote,
            self._normalised,
        )  # fmt: skip
        self._normal: dict[Site, int] = {}  # call of a model -> the weight of its first batch normalisation
        self._taping = False
        self._wanted = False

    # -- the tape

    def start_tape(self) -> None:
        """Begin to record operations."""
        if not (self._taping or self.tape.full or self.tape.off) and threading.get_ident() == self._thread:
            self.tape.attach()
            self._taping = True

    def stop_tape(self) -> None:
        """Record operations no longer."""
        if self._taping and threading.get_ident() == self._thread:
            self._taping = not self.tape.detach()

    def _resume(self) -> None:
        if self._wanted:
            self._wanted = False
            self.start_tape()

    def taping_here(self) -> bool:
        """Whether operations of this thread are being recorded."""
        return self._taping and threading.get_ident() == self._thread

    def _made_leaf(self, value: int | None, scalar: bool) -> None:
        self.append(events.MadeLeaf(self.tick(), here(), value, scalar))

    def _flag(self, parameter: Tensor, on: bool) -> None:
        self.flagged([parameter], on)

    def _wrote(self, parameter: int, tensor: Tensor) -> None:
        if self.steps or self._backwards:
            self._by_hand.add(parameter)

    def _normalised(self, weight: Tensor) -> None:
        found = caller(weight)
        if found is not None:
            site, name, module = found
            if self._normal.setdefault(site, self.number(weight)) == self.number(weight):
                held = list(module.parameters())
                self.append(
                    events.Normalised(
                        self.tick(), site, name, frozenset(map(self.number, held)),
                        not any(p.requires_grad for p in held), torch.is_grad_enabled(), self.steps,
                    )
                )  # fmt: skip

    # -- events

    def tick(self) -> int:
        """The next place in the order of events."""
        self._at += 1
        return self._at

    def append(self, event: events.Event) -> None:
        """Keep an event; when it is the first of its kind, learn names from the user's variables."""
        if event.site is not NOWHERE and event.key not in self.log:
            self.names.learn(user_frames())
        self.log.append(event)

    def failed(self, error: BaseException) -> None:
        """Note that the recording itself went wrong."""
        where = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{type(error).__name__}: {error} ({where.filename.rpartition('/')[2]}:{where.lineno})"
        if text not in self.log.failures and len(self.log.failures) < 20:
            self.log.failures.append(text)

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Let a failure of the recording be noted, and not stop the script."""
        busy, self.tape.busy = self.tape.busy, True
        try:
            with self._lock:
                yield
        except Exception as error:
            self.failed(error)
        finally:
            self.tape.busy = busy

    def ours(self) -> bool:
        """Whether to record here: not in a forked process, and not while a graph is compiled."""
        return os.getpid() == self._pid and not torch.compiler.is_compiling()

    def known(self) -> list[tuple[Tensor, int]]:
        """Every parameter that exists."""
        return [(p, n) for p, n in self.numbers.living() if p.is_leaf]

    def number(self, parameter: Tensor, made: Site | None = None) -> int:
        """The number of a parameter."""
        n = self.numbers.of(parameter)
        if n not in self._shapes:
            self._shapes[n] = tuple(parameter.shape) if not nn.parameter.is_lazy(parameter) else ()
            self._made[n] = made or here()
        return n

    def held_by(self, optimizer: Optimizer) -> list[tuple[Tensor, int]]:
        """What an optimizer holds."""
        found = [(p, self.number(p)) for group in optimizer.param_groups for p in group["params"]]
        self._held[self.optimizers.of(optimizer)] = frozenset(n for _, n in found)
        return found

    # -- backward

    def backward(self, roots: tuple[Tensor, ...], retain: bool, run: Callable[[], Any]) -> Any:
        """Record a backward pass that ``run`` makes."""
        site, facts = here(), None
        with self.guarded():
            facts = self._before(site, roots)
        busy, self.tape.busy = self.tape.busy, True
        try:
            result = run()
        except BaseException as error:
            with self.guarded():
                self._after(site, roots, retain, facts, error)
            raise
        finally:
            self.tape.busy = busy
        with self.guarded():
            self._after(site, roots, retain, facts, None)
        return result

    def _before(self, site: Site, roots: tuple[Tensor, ...]) -> tuple[events.Stale, ...]:
        self._backwards[site] += 1
        known = self.known()
        self.grads.settle(known)
        self._blank = frozenset(n for p, n in known if p.grad is None)
        for p, n in known:
            if n not in self._first_version:
                self.number(p)
                self._first_version[n] = p._version
        if self._backwards[site] == 1 and self.steps:
            self._wanted = True  # not now, in the middle of an operation
        if self.missing or self._backwards[site] > FEW:
            return ()
        addresses = _nodes.overwritten(roots, {a: w[0] for a, w in self._written.items()})
        stale = tuple(
            events.Stale(self._written[a][1], number, self._written[a][2], self._written[a][3])
            for a, number in addresses.items()
        )
        return tuple(sorted(stale, key=lambda s: s.sequence))

    def _after(
        self, site: Site, roots: tuple[Tensor, ...], retain: bool, stale: tuple[events.Stale, ...] | None,
        error: BaseException | None,
    ) -> None:  # fmt: skip
        at = self.tick()
        self._lines[at] = site
        if len(self._lines) > 500:
            del self._lines[next(iter(self._lines))]
        loss = _loss_name(site)
        early = self._backwards[site] <= FEW
        freed = None
        if early and not self.missing and error is None:
            _nodes.mark(roots, at)
        elif error is not None and not self.missing:
            mark = _nodes.marked(roots)
            freed = None if mark is None else (mark[0], self._lines.get(mark[1], NOWHERE))
        known = self.known()
        reached = self.grads.added(known, Contribution(at, site, loss))
        self._versions = {n: p._version for p, n in known if n in reached} if early else {}
        value = self._scalar(roots)
        look = early or (value is not None and value - value != 0)
        grads = [(n, p.grad) for p, n in known if n in reached and p.grad is not None] if look else []
        dense = [(n, g.detach()) for n, g in grads if g.layout is torch.strided]
        for waiting in self._since.values():
            waiting.append(at)
            del waiting[:-20]
        self.append(
            events.Backward(
                at, site, loss, tuple(v for t in roots if (v := self.tape.value_of(t)) is not None),
                tuple(roots[0].shape) if roots else (), any(t.grad_fn is not None for t in roots),
                any(t.is_leaf for t in roots), value, reached,
                frozenset(n for n, g in dense if n in self._blank and not g.any()),
                frozenset(n for n, g in dense if not g.isfinite().all()),
                stale or (), freed, retain, "" if error is None else str(error), self.steps,
                any(self._scaled.get(t) is not None for t in roots) if self.scaling else None,
                early and self.names.evaluating(reached),
            )
        )  # fmt: skip

    def _scalar(self, roots: tuple[Tensor, ...]) -> float | None:
        if len(roots) != 1 or roots[0].numel() != 1 or roots[0].device.type != "cpu":
            return None
        return float(roots[0].detach().item())

    # -- optimizers

    def made_optimizer(self, optimizer: Optimizer) -> None:
        """An optimizer was made, or given parameters."""
        n, site = self.optimizers.of(optimizer), here()
        held = frozenset(number for _, number in self.held_by(optimizer))
        self._kinds.setdefault(n, (type(optimizer).__name__, site))
        if site.target:
            self.names.optimizers.setdefault(n, site.target.removeprefix("self."))
        self._since[n] = self._since.get(n, [])
        self.append(events.OptimizerMade(self.tick(), site, n, type(optimizer).__name__, held))

    def before_step(self, optimizer: Optimizer, closure: bool) -> None:
        """An optimizer is about to step."""
        self._open[threading.get_ident()].append((self.optimizers.of(optimizer), set()))
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
        site, n = here(), self.optimizers.of(optimizer)
        held = [(p, k) for p, k in self.held_by(optimizer) if k not in inner]
        self.grads.settle(held)
        graded = [number for p, number in held if p.grad is not None]
        uses = self.grads.uses(graded, n)
        early = self._stepped[n] < FEW
        infinite = frozenset(k for p, k in held if early and p.grad is not None and _infinite(p.grad))
        self.append(
            events.Step(
                self.tick(), site, n, uses,
                frozenset(k for p, k in held if p.grad is None and p.requires_grad),
                frozenset(k for p, k in held if not p.requires_grad),
                self.grads.unknown(graded), infinite, closure, self.scaler, tuple(self._since[n]),
                    n in self.unscaled,
                frozenset(k for p, k in held if early and p.grad is not None and self._drifts(optimizer, p, k)),
            )
        )  # fmt: skip
        self._since[n].clear()
        if early:
            for name, count, where in holding(user_frames()):
                self.append(events.Held(self.tick(), where, name, count))
        self.unscaled.discard(n)

    def _drifts(self, optimizer: Optimizer, parameter: Tensor, number: int) -> bool:
        if parameter.requires_grad or not self.grads.cleared(number):
            return False
        group = next(g for g in optimizer.param_groups if any(p is parameter for p in g["params"]))
        state = optimizer.state.get(parameter, {})
        momenta = [state.get(name) for name in ("momentum_buffer", "exp_avg")]
        return bool(group.get("weight_decay")) or any(isinstance(m, Tensor) and bool(m.any()) for m in momenta)

    def after_step(self, optimizer: Optimizer, closure: bool) -> None:
        """An optimizer has stepped."""
        site, n = here(), self.optimizers.of(optimizer)
        held = self.held_by(optimizer)
        inner = self._inside(n, {k for p, k in held if p.grad is not None})
        if closure and not (inner and inner.issuperset(k for _, k in held)):
            self._record_step(optimizer, closure, inner)
        graded = [(p, number) for p, number in held if p.grad is not None and number not in inner]
        self.grads.apply([number for _, number in graded], n)
        now = 0 if self.missing else _nodes.sequence()
        for p, number in graded:
            self._written[p.untyped_storage().data_ptr()] = now, number, site, n
            self._step_sites[number] = site
        while len(self._written) > 20_000:
            del self._written[next(iter(self._written))]
        self._stepped[n] += 1
        self.steps += 1
        self._resume()
        if self._taping and self._seen_enough():
            self.stop_tape()
        if self.on_step is not None:
            self.on_step(self.steps)

    def _seen_enough(self) -> bool:
        active = [n for _, n in self.optimizers.living() if self._stepped[n]]
        enough = all(self._stepped[n] >= _TAPED for n in active) or self.steps > 40
        return (enough and all(count >= _TAPED for count in self._backwards.values())) or self.steps > 60 + _TAPED

    def skipped_step(self, optimizer: Optimizer) -> None:
        """A GradScaler did not step, because a gradient was not finite."""
        self.grads.apply([n for _, n in self.held_by(optimizer)], self.optimizers.of(optimizer))
        self._skipped[self.optimizers.of(optimizer)] += 1

    def clearing(self, parameters: Iterable[Tensor], owner: int | None, run: Callable[[], Any]) -> Any:
        """Record that ``run`` clears the gradients of ``parameters``."""
        site, moved = here(), False
        held: list[tuple[Tensor, int]] = []
        dropped: tuple[events.Use, ...] = ()
        with self.guarded():
            held = [(p, self.number(p)) for p in parameters]
            self.grads.settle(held)
            dropped = tuple(u for u in self.grads.uses([n for _, n in held], None) if u.again == 0)
            moved = bool(dropped) and any(p._version != self._versions.get(n, p._version) for p, n in held)
        result = run()
        with self.guarded():
            self.grads.clear(held)
            self._resume()
            self.append(events.Cleared(self.tick(), site, owner, frozenset(n for _, n in held), dropped, moved))
        return result

    def clipped(self, parameters: list[Tensor]) -> None:
        """Gradients were clipped."""
        numbers = [self.number(p) for p in parameters]
        applied = self.grads.all_applied(numbers)
        site = next((self._step_sites[n] for n in numbers if n in self._step_sites), None)
        self.append(events.Clipped(self.tick(), here(), frozenset(numbers), applied, site))

    # -- setup

    def made_parameter(self, parameter: Tensor) -> None:
        """A module was given a parameter."""
        self.number(parameter, here())

    def replaced(self, module: nn.Module, name: str, new: nn.Module) -> None:
        """A submodule took the place of another."""
        old = module._modules.get(name)
        if old is not None and old is not new:
            gone = frozenset(self.number(p) for p in old.parameters())
            came = frozenset(self.number(p) for p in new.parameters())
            if gone and came and gone != came:
                self.append(events.Replaced(self.tick(), here(), name, gone, came))

    def flagged(self, parameters: Iterable[Tensor], on: bool) -> None:
        """``requires_grad`` was set."""
        self.append(events.Flagged(self.tick(), here(), frozenset(self.number(p) for p in parameters), on))

    def aliased(self, module: nn.Module) -> None:
        """A module with parameters has two names in one parent."""
        self.append(events.Aliased(self.tick(), here(), frozenset(self.number(p) for p in module.parameters())))

    def scaled(self, loss: Any) -> None:
        """A GradScaler scaled a loss."""
        self.scaling = True
        for one in loss if isinstance(loss, (list, tuple)) else (loss,):
            self._scaled.of(one)

    def copied(self, source: nn.Module, result: nn.Module) -> None:
        """A module was copied."""
        site = here()
        pairs = tuple(
            (self.number(a), self.number(b, site))
            for a, b in zip(source.parameters(), result.parameters(), strict=False)
        )
        if pairs:
            self.append(events.Copied(self.tick(), site, pairs))

    def loaded(self, parameters: Iterable[Tensor], state: Mapping[str, Any]) -> None:
        """Values were loaded from a state dict."""
        loaded = {self.number(p) for p in parameters}
        self._loaded |= loaded
        living = {p.data_ptr() for p, n in self.known() if n not in loaded and _plain(p)}
        values = [t for t in state.values() if isinstance(t, Tensor) and _plain(t)]
        if any(t.data_ptr() in living for t in values):
            self._follows |= loaded

    def _moved(self, number: int, parameter: Tensor) -> bool:
        """Whether a parameter was written since its first gradient, by other than an optimizer."""
        return number in self._by_hand or parameter._version > self._first_version.get(number, 1 << 60)

    # -- the end

    def finish(self, outcome: str, error: BaseException | None, variables: dict[str, Any]) -> Log:
        """Everything that was recorded, with names."""
        self.stop_tape()
        with self.guarded():
            self.names.learn_from(variables)
            alive = {n: p for p, n in self.numbers.living()}
            stepped = {number for n, numbers in self._held.items() if self._stepped[n] for number in numbers}
            self.log.parameters = {
                n: log.Parameter(
                    self.names.parameters.get(n, ("", ""))[1], self.names.parameters.get(n, ("", ""))[0], shape,
                    self._made.get(n, NOWHERE), n in alive and alive[n].requires_grad, n in self._step_sites,
                    n in alive and n not in stepped and self._moved(n, alive[n]),
                    n in self._loaded, isinstance(alive.get(n), nn.Parameter), n in alive,
                    n in self._follows,
                )
                for n, shape in self._shapes.items()
            }  # fmt: skip
            self.log.optimizers = {
                n: log.Optimizer(
                    self.names.optimizers.get(n, kind), kind, site, self._held[n], self._stepped[n] + self._skipped[n]
                )
                for n, (kind, site) in self._kinds.items()
            }
        self.log.values = self.tape.values
        self.log.unregistered, self.log.aliases = self.names.unregistered, self.names.aliases
        self.log.scaling = self.scaling
        self.log.outcome, self.log.error = outcome, error
        if error is not None:
            self.log.error_site = of_traceback(error)
        if self.missing:
            self.log.unchecked["step-before-backward, freed-graph"] = f"torch has no {', '.join(self.missing)}"
        if self.tape.full:
            self.log.unchecked["some"] = "the first iterations have too many operations to follow them all"
        return self.log


def _loss_name(site: Site) -> str:
    if site.receiver and site.receiver != "torch.autograd":
        return site.receiver
    return site.text


def _infinite(grad: Tensor) -> bool:
    return grad.layout is torch.strided and not bool(grad.detach().isfinite().all())


def _plain(tensor: Tensor) -> bool:
    return not nn.parameter.is_lazy(tensor) and tensor.layout is torch.strided and tensor.numel() > 0
