"""Run one phase: freeze, evaluate, differentiate, check, step; or leave everything as it was."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from cograd._accumulation import Held
from cograd._backward import run
from cograd._balance import Balanced, balance, deposit, look
from cograd._clip import gradient_norm
from cograd._expect import Expectations, Setup
from cograd._losses import check_mapping, evaluate, no_graph, not_finite
from cograd._models import Statistics, buffers_kept, trainable, with_buffers
from cograd._move import Move, Taken
from cograd._optimizers import members, needs_closure
from cograd._phase import Phase
from cograd._plan import Plan, Planner, unreached
from cograd._random import RandomState, random_state, replayed
from cograd._report import Report, weighted
from cograd._representation import Representation
from cograd._weights import Weight, Weights
from cograd.errors import (
    LossError,
    NonFiniteLossError,
    PartialStepError,
    RouteError,
    UnreachedError,
)
from cograd.gramian import At, Engine


class Update:
    """One phase of a ``Joint``, bound to its parameters and optimizers.

    Attributes:
        phase: the declaration.
        weights: the factors of its losses, and the state of its rule.
        plan: the passes that ran last; None before the first.
        closure: the optimizer that evaluates the losses itself, if there is one.
    """

    def __init__(self, setup: Setup, phase: Phase, weights: Weights, expectations: Expectations) -> None:
        self.setup, self.phase, self.weights = setup, phase, weights
        self.plan: Plan | None = None
        self._expect = expectations
        self._unchecked: tuple[Mapping[str, Tensor], Mapping[str, Weight]] = ({}, {})
        where = setup.gramian.where if isinstance(setup.gramian, At) else None
        self._representation = Representation(where, setup.models[where]) if isinstance(where, str) else None
        self._move = Move(setup)
        self._without = -1  # parameters without gradient in the last update
        self.bind()

    @property
    def gathered(self) -> dict[str, Held]:
        """Model -> what it holds for its next update, for models that are not updated each time."""
        return self._move.gathered

    def forget(self) -> None:
        """Drop what was gathered, and what was to be checked later: it belongs to another state."""
        self.gathered.clear()
        self._unchecked = ({}, {})

    def bind(self) -> None:
        """Look at parameters and optimizers anew, since flags or parameter groups have changed."""
        models = self.setup.models
        self.trained = {name: ps for name in self.phase.models if (ps := trainable(models[name]))}
        self._mine = [p for parameters in self.trained.values() for p in parameters]
        mine = {id(p) for p in self._mine}
        self._others = [p for name in models for p in models[name].parameters() if id(p) not in mine]
        self._frozen = [p for p in self._others if p.requires_grad]
        self._parameters = self._mine + self._others
        frozen = [name for name in models if name not in self.trained] if self.setup.freeze_buffers else []
        self._still = [module for name in frozen for module in models[name].modules()]
        own = {name: [p for p in members(o) if id(p) in mine] for name, o in self.setup.optimizers.items()}
        self.optimizers = {name: (self.setup.optimizers[name], ps) for name, ps in own.items() if ps}
        self.closure = next((name for name, (o, _) in self.optimizers.items() if needs_closure(o)), None)
        self._all = [module for name in models for module in models[name].modules()]
        self._with_buffers = with_buffers(models[name] for name in models)
        self._planner = Planner(self.trained, self.setup.trains)
        self._expect.bind(self.trained, self._others)
        self._move.bind(self.trained, {name: own for name, (_, own) in self.optimizers.items()})

    def __call__(self, batch: Any, step: int) -> Report:
        """One simultaneous update. After an exception nothing has changed, unless it is a PartialStepError."""
        if self._unchecked[0]:
            losses, weights = self._unchecked
            self._unchecked = ({}, {})
            if what := not_finite(losses, weights, {}):
                raise self._not_finite(what, "one step ago; its update has been made")
        set_aside = [(p, g) for p in self._parameters if (g := p.grad) is not None]
        rng = random_state()
        try:
            for p, _ in set_aside:
                p.grad = None
            with self._freezing(self._still) if self._frozen or self._still else nullcontext():
                report = self._step_by_closure(batch, step) if self.closure else self._step(batch, step)
        except BaseException as error:
            if isinstance(error, LossError | UnreachedError) and error.losses:
                self._locate(error, batch, step, rng)
            for p in self._mine:
                p.grad = None
            for p, g in set_aside:
                p.grad = g
            raise
        finally:
            if self._representation:
                self._representation.forget()
        for p, g in set_aside:
            p.grad = g
        for name in report.models:
            for p in self.trained[name]:
                p.grad = None
        if self.setup.check == "late":
            self._unchecked = (report.losses, report.weights)
        self.plan = report.plan
        if self._move.kept or not report.overflowed:
            if not self.weights.looks_back:
                self.weights.commit()
            elif report.models and report.losses:
                self.weights.commit()
                self._look_back(batch, step, report, rng)
        return report

    def foresee(self, batch: Any, step: int) -> Plan:
        """The plan for ``batch``, without differentiating. Buffers and torch's RNG are put back."""
        rng = random_state()
        try:
            with replayed(rng), self._freezing(self._all):
                try:
                    losses, _ = self._evaluate(batch, step)
                finally:
                    if self._representation:
                        self._representation.forget()
                return replace(self._planner.plan(losses), rule=self.weights.name if self.weights.shares else None)
        except (LossError, UnreachedError) as error:
            if error.losses:
                self._locate(error, batch, step, rng)
            raise

    def _locate(self, error: LossError | UnreachedError, batch: Any, step: int, rng: RandomState) -> None:
        """Say in ``error`` where the gradient was cut, for which the losses are evaluated once more."""
        from cograd._cause import cause  # only now: nothing is followed where nothing is wrong

        named = getattr(error, "models", ()) or [
            name for name in self.trained if any(self._expect.trains(loss, name) for loss in error.losses)
        ]
        wanted = {name: self.trained[name] for name in named}
        try:
            with replayed(rng), self.held():
                found = cause(lambda: self.present(batch, step, error.losses), wanted)
        except Exception as failure:
            error.add_note(f"Where it was cut is unknown: evaluating the losses again raised {failure!r}.")
        else:
            known = error.fact if found and isinstance(error, UnreachedError) else error
            error.args = (f"{known}{found}",)
        if self.setup.prepare is not None:
            error.add_note(
                "What prepare(models, batch) computes has no gradient: what is to train is computed in losses."
            )

    @contextmanager
    def held(self) -> Iterator[None]:
        """The other models are frozen, as in a step. All buffers are put back when done."""
        with self._freezing(self._all):
            yield

    def factors(self, losses: Mapping[str, Tensor], step: int) -> dict[str, float]:
        """The weights that a step would give ``losses``, whose graphs are kept, as is the state of the rule."""
        before = self.weights.before(losses, step)
        if not self.weights.shares or not losses:
            return {name: float(w) for name, w in self.weights.of(losses, before, step).items()}
        engine = None if isinstance(self.setup.gramian, At) else self.setup.gramian
        group_of, still = self._planner.group_of, Statistics(self._with_buffers)
        routes = self._routes(losses)
        return balance(losses, self.weights, step, group_of, routes, engine, keep=True, statistics=still).weights

    def present(self, batch: Any, step: int, only: Collection[str] = ()) -> dict[str, Tensor]:
        """The losses of this phase, also those without a graph. ``only`` some, and those before them."""
        with self.setup.precision.autocast():
            returned = check_mapping(self.setup.losses(self.setup.models, batch))
            before = self.weights.before(returned, step)
            missing, losses = set(only), {}
            for name, value in returned.items():
                if before[name] and self._expect.concerns(name):
                    loss = evaluate(name, value)
                    if loss is not None:
                        losses[name] = loss
                    missing.discard(name)
                    if only and not missing:
                        break
        return {name: loss for name, loss in losses.items() if not only or name in only}

    def _step(self, batch: Any, step: int) -> Report:
        taken = self._gradients(*self._evaluate(batch, step), step)
        return self._move(taken, self._check)

    def flush(self) -> Report | None:
        """Update the models that hold gradients by what they hold. None if there are none."""
        set_aside = [(p, g) for p in self._parameters if (g := p.grad) is not None]
        try:
            for p, _ in set_aside:
                p.grad = None
            taken = Taken({}, {}, Plan((), "no loss is evaluated: this is what was gathered before"))
            return self._move.flush(taken, self._check)
        finally:
            for p in self._mine:
                p.grad = None
            for p, g in set_aside:
                p.grad = g

    def _step_by_closure(self, batch: Any, step: int) -> Report:
        """The phase is the closure. Its weights are those of the first evaluation, so that the objective is one."""
        assert self.closure is not None
        optimizer, own = self.optimizers[self.closure]
        state = {p: dict(s) for p, s in optimizer.state.items()}
        report: Report | None = None

        def closure() -> Any:
            nonlocal report
            for p in own:
                p.grad = None
            losses, before = self._evaluate(batch, step)
            if report is None:
                taken = self._gradients(losses, before, step)
                norms = {name: gradient_norm(self.trained[name]) for name in taken.models if self.setup.grad_norms}
                self._check(taken, norms)
                report = taken.report(taken.models, (str(self.closure),), norms=norms)
                return sum(report.weighted.values())
            total = sum(weighted(loss.detach(), report.weights[name]) for name, loss in losses.items())
            plan = self._planner.plan(losses)
            if self.weights.shares:
                deposit(self._balance(losses, step, self.weights.without_fixed(report.weights)).gradients)
            else:
                run(plan, losses, report.weights, self.trained, modules=self._with_buffers)
            return total

        try:
            optimizer.step(closure)
        except BaseException as error:
            if report is None:  # the first evaluation failed: nothing has moved
                optimizer.state.clear()
                optimizer.state.update(state)
            if report is None or not isinstance(error, Exception):
                raise
            raise PartialStepError(self.closure, [], error) from error
        assert report is not None
        if self.setup.check == "now" and not all([torch.isfinite(p).all() for p in own]):
            raise PartialStepError(self.closure, [], NonFiniteLossError("its search ended at NaN or infinity"))
        return report

    def _look_back(self, batch: Any, step: int, report: Report, rng: RandomState) -> None:
        """Show the rule what the same losses are after the update, under the same random numbers."""
        frozen = [p for p in self._parameters if p.requires_grad]
        modules = [m for name in self.setup.models for m in self.setup.models[name].modules()]
        try:
            for p in frozen:
                p.requires_grad = False
            with replayed(rng), self._freezing(modules), self.setup.precision.autocast():
                returned = check_mapping(self.setup.losses(self.setup.models, batch))
                again = {name: evaluate(name, returned.get(name)) for name in report.losses}
            self.weights.after({name: loss.detach() for name, loss in again.items() if loss is not None})
        except Exception as error:
            raise PartialStepError("the second look at the losses", report.stepped, error, after=True) from error
        finally:
            for p in frozen:
                p.requires_grad = True

    def _evaluate(self, batch: Any, step: int) -> tuple[dict[str, Tensor], dict[str, float]]:
        """The present losses of this phase that have a graph, and what is known of their weights."""
        if self._representation is None and not self.setup.precision.name:
            return self._evaluate_now(batch, step)
        with self._representation or nullcontext(), self.setup.precision.autocast():
            return self._evaluate_now(batch, step)

    def _evaluate_now(self, batch: Any, step: int) -> tuple[dict[str, Tensor], dict[str, float]]:
        returned = check_mapping(self.setup.losses(self.setup.models, batch))
        concerned = self._expect.concerned(returned)
        before = self.weights.before(returned, step)
        losses = {}
        for name, value in returned.items():
            if before[name] and concerned[name]:
                loss = evaluate(name, value)
                if loss is None:
                    continue
                if loss.grad_fn is not None or (loss.requires_grad and any(loss is p for p in self._mine)):
                    losses[name] = loss
                else:
                    self._expect.sit_out(name, no_graph(name, loss))
        return losses, before

    def _gradients(self, losses: dict[str, Tensor], before: Mapping[str, float], step: int) -> Taken:
        """Differentiate ``losses``, which it empties, and check that the gradients arrived where they should."""
        try:
            plan = self._planner.plan(losses)
        except RouteError:  # a stranger: was a part of a model replaced, or unfrozen?
            self._expect.check_parameters()
            raise
        for name in plan.idle:
            self._expect.sit_out(name, unreached(name, list(self.trained)))
            del losses[name]
        self._expect.take_part(losses)
        values = {name: loss.detach() for name, loss in losses.items()}
        gramian = None
        if self.weights.shares:
            self._check(Taken(values, {}, plan), {})
            found = self._balance(losses, step)
            losses.clear()
            weights: Mapping[str, Weight] = found.weights
            gramian, plan = found.gramian, replace(plan, rule=self.weights.name)
            if found.overflowed:
                return Taken(values, weights, plan, overflowed=tuple(self.optimizers))
            deposit(found.gradients)
        else:
            if self.setup.watch and step % self.setup.watch == 0:
                with buffers_kept(self._with_buffers):
                    routes, scale = self._routes(losses), self.setup.precision.scale
                    gramian = look(losses, self._planner.group_of, routes, self._engine(), scale)
            weights = self.weights.of(losses, before, step)
            scaled = self.setup.precision.scaled(weights) if self.setup.precision.scaling else weights
            run(plan, losses, scaled, self.trained, modules=self._with_buffers)
        for p in self._others:  # a losses function that unfreezes what the phase froze changes nothing
            p.grad = None
        without = [p for p in self._mine if p.grad is None]
        if len(without) != self._without:
            self._expect.check_parameters()
            self._without = len(without)
        skipped, some = self._expect.lacking(values) if without else ((), {})
        models = tuple(name for name in self.trained if name not in skipped)
        return Taken(values, weights, plan, models, skipped, some, gramian)

    def _balance(self, losses: Mapping[str, Tensor], step: int, known: Mapping[str, float] | None = None) -> Balanced:
        group_of, routes = self._planner.group_of, self._routes(losses)
        still, scale = Statistics(self._with_buffers), self.setup.precision.scale
        return balance(
            losses, self.weights, step, group_of, routes, self._engine(), known=known, statistics=still, scale=scale
        )

    def _routes(self, losses: Mapping[str, Tensor]) -> list[int]:
        return [self._planner.route(name) for name in losses]

    def _engine(self) -> Engine | None:
        """The engine, with the representation that the losses function has just made."""
        return self._representation.engine() if self._representation else self.setup.gramian

    def _check(self, taken: Taken, norms: Mapping[str, Tensor]) -> None:
        if self.setup.check == "now" and (what := not_finite(taken.losses, taken.weights, norms)):
            raise self._not_finite(what, "no parameter has moved")

    def _not_finite(self, what: str, when: str) -> NonFiniteLossError:
        return NonFiniteLossError(
            f"In the phase '{self.phase}' {what}; {when}. Look for a logarithm or root of zero, a division by zero, "
            "or a learning rate that is too high."
        )

    @contextmanager
    def _freezing(self, still: Sequence[nn.Module]) -> Iterator[None]:
        """Switch off the gradients of the other models, and put the buffers of ``still`` back when done.

        What the user froze stays as it is.
        """
        with buffers_kept(still):
            try:
                for p in self._frozen:
                    p.requires_grad = False
                yield
            finally:
                for p in self._frozen:
                    p.requires_grad = True
