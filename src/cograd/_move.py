"""From gradients to moved parameters: unscale, gather, bound, step."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from cograd._accumulation import Held, added
from cograd._apart import Apart
from cograd._clip import Clip, clip_gradients, gradient_norm
from cograd._expect import Setup
from cograd._losses import Evaluation
from cograd._optimizer_needs import advice
from cograd._optimizers import members, only_with_gradient
from cograd._plan import Plan
from cograd._report import Report
from cograd.errors import PartialStepError
from cograd.gramian import Gramian


@dataclass(slots=True)
class Taken:
    """What the first half of a phase has done: the gradients are in ``.grad``.

    Attributes:
        losses, weights, plan, skipped, without_grad, gramian: as in :class:`cograd.Report`.
        models: those that have got a gradient.
        overflowed: optimizers without gradients, since a scaled one was infinite.
        beside: the counts of the losses, and what is only logged.
        apart: gradients that are not in ``.grad``, since they are weighed by a count when they are gathered.
    """

    losses: Mapping[str, Tensor]
    weights: Mapping[str, Any]
    plan: Plan
    models: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    without_grad: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    gramian: Gramian | None = None
    overflowed: tuple[str, ...] = ()
    beside: Evaluation = field(default_factory=Evaluation)
    apart: Apart | None = None

    def report(
        self,
        models: Sequence[str],
        stepped: tuple[str, ...],
        held: Mapping[str, int] | None = None,
        overflowed: tuple[str, ...] = (),
        norms: Mapping[str, Tensor] | None = None,
        deferred: tuple[str, ...] = (),
    ) -> Report:
        """What the phase has done in the end."""
        return Report(
            self.losses,
            self.weights,
            self.plan,
            tuple(models),
            stepped,
            self.skipped,
            self.without_grad,
            held or {},
            overflowed,
            norms or {},
            self.gramian,
            self.beside.logged() if self.beside.metrics else {},
            {name: n for name, n in self.beside.counts.items() if name in self.losses} if self.beside.counts else {},
            deferred,
        )


# Raises if something is not finite; takes norms by model, and the parameters whose gradients no norm covers.
Check = Callable[[Taken, Mapping[str, Tensor], Sequence[Tensor]], None]


class Move:
    """The second half of a phase: what its options make of the gradients.

    Attributes:
        gathered: model -> what it holds for its next update, for models that are not updated each time.
        kept: whether a gradient of the last call was used or gathered, rather than dropped for its overflow.
    """

    def __init__(self, setup: Setup, defer: Collection[str]) -> None:
        self.setup, self.defer, self.kept = setup, defer, True
        self.gathered: dict[str, Held] = {}

    def bind(self, trained: Mapping[str, Sequence[Tensor]], optimizers: Mapping[str, Sequence[Tensor]]) -> None:
        """Take note of the parameters: by model, and by optimizer."""
        self.trained, self.optimizers = trained, optimizers
        several = [name for name in trained if self.setup.accumulate[name] > 1]
        self.gathered = {name: self.gathered.get(name) or Held() for name in several}
        setup = self.setup
        left = [name for name in setup.deferred if name in trained]
        self._simple = not (several or left or setup.clips or setup.grad_norms or setup.precision.scaling)
        for name in self.defer:
            if name not in trained:
                setup.deferred[name] = {}
        self._all = [p for own in trained.values() for p in own]
        self._holders = self._first_holders() if setup.precision.scaling else {}

    def _first_holders(self) -> dict[str, list[Tensor]]:
        """Optimizer -> the parameters of which it is the first holder, the optimizers of this phase coming first.

        Each is in one list, so that it is unscaled once: what is deferred may be held by none of this phase, or by two.
        """
        left = {id(p): p for p in self._all}
        found: dict[str, list[Tensor]] = {}
        for name in dict.fromkeys([*self.optimizers, *self.setup.optimizers]):
            found[name] = [left.pop(id(p)) for p in members(self.setup.optimizers[name]) if id(p) in left]
        return found

    def __call__(self, taken: Taken, check: Check) -> Report:
        """Update the models that are due by their ``.grad``. Until the first optimizer steps, an exception
        leaves everything but ``.grad`` as it was.
        """
        if self._simple:
            check(taken, {}, self._all)
            return taken.report(taken.models, self._step(()))
        precision, here, overflowed = self.setup.precision, taken.models, taken.overflowed
        apart = taken.apart or Apart()
        if precision.scaling:
            overflowed = overflowed or precision.unscale(self._holders, apart.gradients())
            here = self._without_overflow(here, overflowed)
        self.kept = bool(here)
        due = [name for name in self.trained if self._due(name, name in here)]
        for name in due:
            if name in self.gathered:
                fresh = {} if self._lost(name, overflowed) else apart.of(name, self.setup.trains)
                self.gathered[name].give(self.trained[name], fresh, name in here)
            if waiting := self.setup.deferred.get(name):
                for p in self.trained[name]:  # what was frozen meanwhile stays where it is
                    p.grad = added(waiting.get(p), p.grad)
        norms, clips, covered = self._norms(due)
        check(taken, norms, self._uncovered(covered))
        precision.update(bool(overflowed))

        deferred = tuple([name for name in here if name in self.defer])
        for name in deferred:
            self._leave(name)
        for name in due:
            if name in self.setup.deferred:
                self.setup.deferred[name] = {}
        for name in self.gathered:
            if name not in due and not self._lost(name, overflowed):
                fresh = apart.of(name, self.setup.trains)
                self.gathered[name].add(self.trained[name], fresh, name in here)
        for name, held in self.gathered.items():
            held.turns += 1
            if name in due or held.turns >= self.setup.accumulate[name]:
                self.gathered[name] = Held()
        counts = {name: held.count for name, held in self.gathered.items() if held.count}
        stepped = self._step(clips)
        return taken.report(due, stepped, counts, overflowed, norms if self.setup.grad_norms else None, deferred)

    def flush(self, taken: Taken, check: Check) -> Report | None:
        """Update the models that hold gradients by what they hold. None if there are none."""
        due = [name for name, held in self.gathered.items() if held.count]
        for name in due:
            self.gathered[name].give(self.trained[name], {}, here=False)
        norms, clips, covered = self._norms(due)
        check(taken, norms, self._uncovered(covered))
        self.gathered = {name: Held() for name in self.gathered}
        stepped = self._step(clips)
        return taken.report(due, stepped) if due else None

    def _leave(self, model: str) -> None:
        """Put the gradients of ``model`` aside for its next update, with those that wait there."""
        waiting = dict(self.setup.deferred[model])
        for p in self.trained[model]:
            if (gradient := added(waiting.get(p), p.grad)) is not None:
                waiting[p], p.grad = gradient, None
        self.setup.deferred[model] = waiting

    def _due(self, model: str, here: bool) -> bool:
        """Is ``model`` updated now, given whether it has just got a gradient?"""
        if model in self.defer:
            return False
        held = self.gathered.get(model)
        if held is None:
            return here
        return held.turns + 1 >= self.setup.accumulate[model] and (here or held.count > 0)

    def _without_overflow(self, here: Sequence[str], overflowed: Collection[str]) -> tuple[str, ...]:
        """The models whose gradients are good. Those of the others are dropped."""
        lost = [name for name in self.trained if self._lost(name, overflowed)]
        for name in lost:
            for p in self.trained[name]:
                p.grad = None
        return tuple([name for name in here if name not in lost])

    def _lost(self, model: str, overflowed: Collection[str]) -> bool:
        """Are the gradients of ``model`` dropped, since these optimizers have met one that is infinite?"""
        if not overflowed:
            return False
        assert self.setup.precision.scaling is not None
        if self.setup.precision.scaling.skip == "all":
            return True
        bad = {id(p) for name in overflowed for p in self._holders[name]}
        return any([id(p) in bad for p in self.trained[model]])

    def _uncovered(self, covered: Collection[str]) -> list[Tensor]:
        """The parameters whose gradients nothing has looked at yet. Unscaling has looked at all of them."""
        if self.setup.precision.scaling:
            return []
        return [p for name, own in self.trained.items() if name not in covered for p in own]

    def _norms(
        self, due: Sequence[str]
    ) -> tuple[dict[str, Tensor], list[tuple[Sequence[Tensor], Clip, Tensor | None]], set[str]]:
        """Of the models that are ``due``: norms that are asked for; what to clip, how, with which norm; who has one."""
        norms = {name: gradient_norm(self.trained[name]) for name in due if self.setup.grad_norms}
        covered = set(norms)
        clips: list[tuple[Sequence[Tensor], Clip, Tensor | None]] = []
        for names, clip in self.setup.clips.items():
            parameters = [p for name in names if name in due for p in self.trained[name]]
            if parameters:
                norm = None
                if clip.norm is not None:
                    known = norms.get(names[0]) if len(names) == 1 and clip.kind == 2.0 else None
                    norm = gradient_norm(parameters, clip.kind) if known is None else known
                    norms.setdefault(" and ".join(names), norm)
                    covered.update(names)
                clips.append((parameters, clip, norm))
        return norms, clips, covered

    def _step(self, clips: Sequence[tuple[Sequence[Tensor], Clip, Tensor | None]]) -> tuple[str, ...]:
        """Clip, then step each optimizer that has a gradient. Parameters move from here on."""
        for parameters, clip, norm in clips:
            clip_gradients(parameters, clip, norm)
        stepped: list[str] = []
        for name, own in self.optimizers.items():
            if any([p.grad is not None for p in own]):
                try:
                    with only_with_gradient(self.setup.optimizers[name]):
                        self.setup.optimizers[name].step()
                except Exception as error:
                    said = advice(self.setup.optimizers[name], error)
                    raise PartialStepError(name, stepped, error, advice=said) from error
                stepped.append(name)
        return tuple(stepped)
