"""Run one phase: freeze, evaluate, differentiate, check, step; or leave everything as it was."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from cograd._accumulation import Held
from cograd._apart import JOINT, Apart, one_count, separated
from cograd._backward import run
from cograd._balance import Balanced, balance, deposit, look
from cograd._caller import level_of_caller
from cograd._clip import gradient_norm
from cograd._closure import begun
from cograd._expect import Expectations, Setup
from cograd._finite import alarms, culprit, sounded
from cograd._flags import differentiates_at_frozen, without_gradients
from cograd._graph import sequence
from cograd._left_alone import refuse_flags, refuse_gradients, refuse_steps
from cograd._losses import Evaluation, Losses, check_mapping, evaluate, no_graph
from cograd._models import Statistics, buffers_kept, noted_buffers, put_back, trainable, with_buffers
from cograd._move import Move, Taken
from cograd._optimizer_needs import needs_closure, needs_graph, searches
from cograd._optimizers import members, only_with_gradient
from cograd._ownership import serving_in
from cograd._phase import Phase
from cograd._plan import Plan, Planner, unreached
from cograd._random import RandomState, random_state, replayed, rewind
from cograd._report import Report, weighted
from cograd._representation import Representation
from cograd._weights import Weight, Weights
from cograd._whereabouts import tell
from cograd.errors import (
    CogradError,
    LossError,
    NonFiniteLossError,
    PartialStepError,
    PassError,
    RouteError,
    UnreachedError,
)
from cograd.gramian import At, Engine

T = TypeVar("T")


class Update:
    """One phase of a ``Joint``, bound to its parameters and optimizers.

    Attributes:
        phase: the declaration.
        weights: the factors of its losses, and the state of its rule.
        plan: the passes that ran last; None before the first.
        closure: the optimizer that evaluates the losses itself, if there is one.
        graph: the optimizer that differentiates the gradients, if there is one.
    """

    def __init__(self, setup: Setup, phase: Phase, weights: Weights, expectations: Expectations) -> None:
        self.setup, self.phase, self.weights = setup, phase, weights
        self.plan: Plan | None = None
        self._expect = expectations
        self._unchecked: tuple[Taken, Mapping[str, Tensor], list[Tensor]] | None = None  # with check="late"
        self._thawed = False  # a loss differentiates at a frozen parameter, so that the flags stay on
        where = setup.gramian.where if isinstance(setup.gramian, At) else None
        self._representation = Representation(where, setup.models[where]) if isinstance(where, str) else None
        self._move = Move(setup, tuple(phase.defer))
        self._without = -1  # parameters without gradient in the last update
        self.bind()

    @property
    def gathered(self) -> dict[str, Held]:
        """Model -> what it holds for its next update, for models that are not updated each time."""
        return self._move.gathered

    def forget(self) -> None:
        """Drop what was gathered, and what was to be checked later: it belongs to another state."""
        self.gathered.clear()
        self._unchecked = None

    def bind(self) -> None:
        """Look at parameters and optimizers anew, since flags or parameter groups have changed."""
        models = self.setup.models
        self.trained = {name: ps for name in self.phase.models if (ps := trainable(models[name]))}
        self._mine = [p for parameters in self.trained.values() for p in parameters]
        mine = {id(p) for p in self._mine}
        self._others: list[Tensor] = [p for name in models for p in models[name].parameters() if id(p) not in mine]
        self._frozen = [p for p in self._others if p.requires_grad]
        self._frozen_for_good = [p for p in self._others if not p.requires_grad]
        self._parameters = self._mine + self._others
        frozen = [name for name in models if name not in self.trained] if self.setup.freeze_buffers else []
        self._still = [module for name in frozen for module in models[name].modules()]
        serving = {name: self.setup.optimizers[name] for name in serving_in(self.phase, self.setup.optimizers)}
        own = {name: [p for p in members(o) if id(p) in mine] for name, o in serving.items()}
        self.optimizers = {name: (self.setup.optimizers[name], ps) for name, ps in own.items() if ps}
        self.closure = next((name for name, (o, _) in self.optimizers.items() if needs_closure(o)), None)
        self.graph = next((name for name, (o, _) in self.optimizers.items() if needs_graph(o)), None)
        self._all = [module for name in models for module in models[name].modules()]
        self._with_buffers = with_buffers(models[name] for name in models)
        self._plan_anew()
        self._expect.bind(self.trained, self._others)
        self._move.bind(self.trained, {name: own for name, (_, own) in self.optimizers.items()})

    def __call__(self, batch: Any, step: int) -> Report:
        """One simultaneous update. After an exception nothing has changed, unless it is a PartialStepError."""
        self._check_late()
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
            if isinstance(error, PassError) and error.losses:
                self._locate_entrance(error, batch, step, rng)
            self._unchecked = None
            for p in self._mine:
                p.grad, p.requires_grad = None, True
            for p in self._others:
                p.grad = None
            for p in self._frozen_for_good:
                p.requires_grad = False
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
                    found = self._evaluate(batch, step)[0]
                finally:
                    if self._representation:
                        self._representation.forget()
                plan = self._planner.plan(found.losses)
                if self.weights.shares:
                    return replace(plan, rule=self.weights.name)
                return self._separated(plan, found.counts)[0] if self.gathered and found.counts else plan
        except (LossError, UnreachedError) as error:
            if error.losses:
                self._locate(error, batch, step, rng)
            raise
        except Exception as error:
            tell(error, f"the phase '{self.phase}'", self.setup.losses, batch)
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

    def _locate_entrance(self, error: PassError, batch: Any, step: int, rng: RandomState) -> None:
        """Say in ``error`` where the old graph comes in, for which the losses are evaluated once more."""
        from cograd._cause import entrance  # only now: nothing is followed where nothing is wrong

        try:
            with replayed(rng), self.held():
                error.args = (f"{error}{entrance(lambda: self.present(batch, step))}",)
        except Exception as failure:
            error.add_note(f"Where it comes in is unknown: evaluating the losses again raised {failure!r}.")

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
        return self._thawing(lambda: self._present(batch, step, only))

    def _present(self, batch: Any, step: int, only: Collection[str]) -> dict[str, Tensor]:
        with self.setup.precision.autocast():
            returned = Evaluation().without_metrics(check_mapping(self.setup.losses(self.setup.models, batch)))
            before = self._before(returned, step)
            missing, losses = set(only), {}
            for name, value in returned.items():
                if before.get(name, 1.0) and self._expect.concerns(name):
                    loss = evaluate(name, value)
                    if loss is not None:
                        losses[name] = loss
                    missing.discard(name)
                    if only and not missing:
                        break
        return {name: loss for name, loss in losses.items() if not only or name in only}

    def _step(self, batch: Any, step: int) -> Report:
        taken = self._gradients(*self._evaluate_alone(batch, step), step)
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

        def objective() -> Any:
            nonlocal report
            for p in own:
                p.grad = None
            found, before = self._evaluate_alone(batch, step)
            losses = found.losses
            if report is None:
                taken = self._gradients(found, before, step)
                norms = {name: gradient_norm(self.trained[name]) for name in taken.models if self.setup.grad_norms}
                self._check(taken, norms, own)
                report = taken.report(taken.models, (str(self.closure),), norms=norms)
                return sum(report.weighted.values())
            total = sum(weighted(loss.detach(), report.weights[name]) for name, loss in losses.items())
            run(self._planner.plan(losses), losses, report.weights, self.trained, modules=self._with_buffers)
            return total

        closure = objective if searches(optimizer) else begun(objective, own)
        if report is not None and not report.models:
            return replace(report, stepped=())
        try:
            with nullcontext() if searches(optimizer) else only_with_gradient(optimizer):
                optimizer.step(closure)
        except BaseException as error:
            if report is None:  # the first evaluation failed: nothing has moved
                optimizer.state.clear()
                optimizer.state.update(state)
            if report is None or not isinstance(error, Exception):
                raise
            raise PartialStepError(self.closure, [], error) from error
        assert report is not None
        if self.setup.check == "now" and not torch.stack([p.isfinite().all() for p in own]).all():
            raise PartialStepError(self.closure, [], NonFiniteLossError("it ended at NaN or infinity"))
        return report

    def _look_back(self, batch: Any, step: int, report: Report, rng: RandomState) -> None:
        """Show the rule what the same losses are after the update, under the same random numbers."""

        def again() -> dict[str, Tensor]:
            with buffers_kept(self._all), self.setup.precision.autocast():
                returned = check_mapping(self.setup.losses(self.setup.models, batch))
                values = {name: evaluate(name, returned.get(name)) for name in report.losses}
            return {name: loss.detach() for name, loss in values.items() if loss is not None}

        try:
            with replayed(rng):
                self.weights.after(without_gradients(self._parameters, again))
        except Exception as error:
            raise PartialStepError("the second look at the losses", report.stepped, error, after=True) from error

    def _evaluate_alone(self, batch: Any, step: int) -> tuple[Evaluation, dict[str, float]]:
        """As :meth:`_evaluate`; what belongs to the step must be as before."""
        self._began = sequence()
        self.setup.began.append((step, self._began))
        refusal = refuse_steps(self.phase, self._parameters, self.setup.optimizers)
        try:
            found = self._evaluate(batch, step)
        finally:
            refusal.remove()
        if any([p.grad is not None for p in self._parameters]):
            refuse_gradients(self.phase, self.setup.models)
        still = self._frozen_for_good if self._thawed else self._others
        if not all([p.requires_grad for p in self._mine]) or any([p.requires_grad for p in still]):
            refuse_flags(self.phase, self.setup.models, self._mine, still)
        return found

    def _evaluate(self, batch: Any, step: int) -> tuple[Evaluation, dict[str, float]]:
        """The present losses of this phase that have a graph, and what is known of their weights."""
        return self._thawing(lambda: self._evaluate_once(batch, step))

    def _evaluate_once(self, batch: Any, step: int) -> tuple[Evaluation, dict[str, float]]:
        if self._representation is None and not self.setup.precision.name:
            return self._evaluate_now(batch, step)
        with self._representation or nullcontext(), self.setup.precision.autocast():
            return self._evaluate_now(batch, step)

    def _plan_anew(self) -> None:
        self._planner = Planner(self.trained, self.setup.trains, self._frozen if self._thawed else ())

    def _thawing(self, evaluate: Callable[[], T]) -> T:
        """``evaluate()``; once more with all flags on if a loss differentiates at a parameter that is frozen here.

        That trains nothing: the passes name the parameters that get a gradient.
        """
        if self._thawed or not self._frozen:
            return evaluate()
        rng = random_state()
        buffers = noted_buffers(self._with_buffers) if self.plan is None else []
        try:
            return evaluate()
        except RuntimeError as error:
            if not differentiates_at_frozen(error):
                raise
        put_back(buffers)
        if self.plan is not None and any([module.training for module in self._with_buffers]):
            warnings.warn(
                f"A loss begins to differentiate at a model that the phase '{self.phase}' freezes, so the losses of "
                "this batch were evaluated twice, and running statistics (BatchNorm) count it twice. From now on they "
                "count each batch once. A loss that does so in the first step of the phase counts that one once too.",
                stacklevel=level_of_caller(),
            )
        self._thaw(True)
        rewind(rng)
        try:
            return evaluate()
        except BaseException:
            self._thaw(False)
            raise

    def _thaw(self, on: bool) -> None:
        self._thawed = on
        self._plan_anew()
        for p in self._frozen:
            p.requires_grad = on

    def _evaluate_now(self, batch: Any, step: int) -> tuple[Evaluation, dict[str, float]]:
        found = Evaluation()
        returned = found.without_metrics(check_mapping(self.setup.losses(self.setup.models, batch)))
        if found.metrics:
            self.setup.only_logged(found.metrics.keys())
        concerned = self._expect.concerned(returned, step)
        before = self._before(returned, step)
        for name, value in returned.items():
            if before.get(name, 1.0) and concerned[name]:
                loss = evaluate(name, value, found)
                if loss is None:
                    continue
                if name not in before:
                    raise LossError(
                        f"{name!r} was a cograd.Metric in an earlier batch, and is a loss now. A name is one or the "
                        "other: give the metric a name of its own."
                    )
                if loss.grad_fn is not None or (loss.requires_grad and any(loss is p for p in self._mine)):
                    found.losses[name] = loss
                else:
                    if not all([p.requires_grad for p in self._mine]):  # that is why, and no cut is to be found
                        refuse_flags(self.phase, self.setup.models, self._mine, ())
                    self._expect.sit_out(name, no_graph(name, loss))
        if found.metrics.keys() & before:  # callables that turned out to give metrics: no rule must count them
            self.setup.only_logged(found.metrics.keys())
            before = self._before(returned, step)
        return found, before

    def _before(self, returned: Losses, step: int) -> dict[str, float]:
        """What is known of the weights before the losses are evaluated."""
        metrics = self.setup.metrics
        return self.weights.before([n for n in returned if n not in metrics] if metrics else returned, step)

    def _gradients(self, found: Evaluation, before: Mapping[str, float], step: int) -> Taken:
        """Differentiate the losses, which it empties, and check that the gradients arrived where they should."""
        losses = found.losses
        try:
            return self._differentiate(found, before, step)
        except RuntimeError as error:
            if not isinstance(error, CogradError):
                self._refuse_carried(error, losses, step)
            raise

    def _refuse_carried(self, error: RuntimeError, losses: Mapping[str, Tensor], step: int) -> None:
        """Raises PassError if torch failed since a tensor of an earlier step was used again with its graph."""
        from cograd._cause import carried

        if found := carried(losses, self._began):
            name, sequence = found
            then = [s for s, began in self.setup.began if began <= sequence]
            ago = step - then[-1] if then else None
            known = {None: "an evaluation long ago", 0: "an earlier phase of this step", 1: "the step before"}
            where = known.get(ago, f"{ago} steps ago")
            raise PassError(
                f"The graph of loss {name!r} in the phase '{self.phase}' goes back into that of {where}, which was "
                "freed, or whose parameters have moved since. Detach what is carried from one evaluation to the next, "
                "such as a hidden state: state = state.detach().",
                [name],
            ) from error

    def _differentiate(self, found: Evaluation, before: Mapping[str, float], step: int) -> Taken:
        losses = found.losses
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
        gathering = self.gathered.keys()
        counts = self.setup.weighed(values, found.counts) if gathering else {}
        apart = Apart() if counts else None
        if self.weights.shares:
            if apart:
                apart.fresh[JOINT] = one_count(values, counts, self.weights.name), {}
            try:
                balanced = self._balance(losses, step, keep=self.closure is not None)
            except NonFiniteLossError as error:
                what = culprit(values, {}, {}, {}) or f"{error.args[0]}, though every loss is finite"
                raise self._not_finite(what, "no parameter has moved") from error
            weights: Mapping[str, Weight] = balanced.weights
            gramian = balanced.gramian
            if self.closure:  # what it minimises has one value, so a head is weighted too
                with buffers_kept(self._with_buffers):
                    run(plan, losses, weights, self.trained, modules=self._with_buffers)
            losses.clear()
            plan = replace(plan, rule=self.weights.name)
            if balanced.overflowed:
                return Taken(values, weights, plan, overflowed=tuple(self.optimizers), beside=found)
            if not self.closure:
                deposit(balanced.gradients)
            if apart:
                apart.take([p for name in gathering for p in self.trained[name]], JOINT)
        else:
            if self.setup.watch and step % self.setup.watch == 0:
                with buffers_kept(self._with_buffers):
                    routes, scale = self._routes(losses), self.setup.precision.scale
                    gramian = look(losses, self._planner.group_of, routes, self._engine(), scale)
            weights = self.weights.of(losses, before, step)
            scaled = self.setup.precision.scaled(weights) if self.setup.precision.scaling else weights
            plan, take = self._apart(plan, counts, apart) if apart else (plan, None)
            graph, modules = bool(self.graph), self._with_buffers
            with _unwarned() if self.graph else nullcontext():
                run(plan, losses, scaled, self.trained, create_graph=graph, modules=modules, after=take)
        if apart:
            apart.show()
        without = [p for p in self._mine if p.grad is None]
        if len(without) != self._without:
            self._expect.check_parameters()
            self._without = len(without)
        skipped, some = self._expect.lacking(values) if without else ((), {})
        models = tuple(name for name in self.trained if name not in skipped)
        if apart:
            apart.hide()
        return Taken(values, weights, plan, models, skipped, some, gramian, beside=found, apart=apart)

    def _apart(self, plan: Plan, counts: Mapping[str, float], apart: Apart) -> tuple[Plan, Callable[[int], None]]:
        """The passes that keep losses with a count apart, and what takes their gradients after each."""
        plan, ends = self._separated(plan, counts)
        apart.fresh.update({name: (count, {}) for name, count in counts.items()})

        def take(i: int) -> None:
            for model, account in ends.get(i, {}).items():
                apart.take(self.trained[model], account)

        return plan, take

    def _separated(self, plan: Plan, counts: Collection[str]) -> tuple[Plan, Mapping[int, Mapping[str, str | None]]]:
        return separated(plan, counts, self.gathered.keys(), self.setup.trains)

    def _balance(self, losses: Mapping[str, Tensor], step: int, keep: bool = False) -> Balanced:
        group_of, routes = self._planner.group_of, self._routes(losses)
        still, scale = Statistics(self._with_buffers), self.setup.precision.scale
        return balance(
            losses, self.weights, step, group_of, routes, self._engine(), keep, statistics=still, scale=scale
        )

    def _routes(self, losses: Mapping[str, Tensor]) -> list[int]:
        return [self._planner.route(name) for name in losses]

    def _engine(self) -> Engine | None:
        """The engine, with the representation that the losses function has just made."""
        return self._representation.engine() if self._representation else self.setup.gramian

    def _check(self, taken: Taken, norms: Mapping[str, Tensor], parameters: Sequence[Tensor]) -> None:
        """Losses, weights, norms and the gradients of ``parameters``: one synchronisation per device, or later."""
        if self.setup.check == "off":
            return
        gradients = [g for p in parameters if (g := p.grad) is not None]
        if taken.apart and not self.setup.precision.scaling:  # else unscaling has looked at them
            gradients += [g for own in taken.apart.gradients().values() for g in own]
        found = alarms([*taken.losses.values(), *taken.weights.values(), *norms.values()], gradients)
        if self.setup.check == "late":
            self._unchecked = (taken, norms, found)
        elif sounded(found) and (what := culprit(taken.losses, taken.weights, norms, self._gradients_by_name(taken))):
            raise self._not_finite(what, "no parameter has moved", taken.losses)

    def _check_late(self) -> None:
        """What the last run of the phase left to be looked at."""
        if self._unchecked is None:
            return
        (taken, norms, found), self._unchecked = self._unchecked, None
        if sounded(found):
            what = culprit(taken.losses, taken.weights, norms, {}) or "a gradient was NaN or infinite"
            raise self._not_finite(what, "one step ago; its update has been made", taken.losses)

    def _gradients_by_name(self, taken: Taken) -> dict[str, Tensor | None]:
        models, found = self.setup.models, taken.apart.gradients() if taken.apart else {}
        named = {f"{name}.{key}": p for name in self.trained for key, p in models[name].named_parameters()}
        apart = {f"{key} (of one loss)": g for key, p in named.items() for g in found.get(p, ())}
        return {key: p.grad for key, p in named.items()} | apart

    def _not_finite(self, what: str, when: str, losses: Mapping[str, Tensor] | None = None) -> NonFiniteLossError:
        if losses and what.startswith("the weight of") and self.weights.balance:
            advice = self.weights.blame(losses)
            return NonFiniteLossError(f"In the phase '{self.phase}' {what}; {when}. {advice}")
        advice = (
            "Look for a root, norm or power of zero, where the value is finite and its derivative is not; "
            "torch.autograd.set_detect_anomaly(True) names the operation."
            if "gradient" in what and "norm" not in what
            else "Look for a logarithm or root of zero, a division by zero, or a learning rate that is too high."
        )
        return NonFiniteLossError(f"In the phase '{self.phase}' {what}; {when}. {advice}")

    @contextmanager
    def _freezing(self, still: Sequence[nn.Module]) -> Iterator[None]:
        """Switch off the gradients of the other models, and put the buffers of ``still`` back when done.

        What the user froze stays as it is.
        """
        with buffers_kept(still):
            try:
                for p in () if self._thawed else self._frozen:
                    p.requires_grad = False
                yield
            finally:
                for p in self._frozen:
                    p.requires_grad = True


@contextmanager
def _unwarned() -> Iterator[None]:
    """Without the warning of a cycle between parameter and gradient, which the end of the phase cuts."""
    always = torch.is_warn_always_enabled()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Using backward\(\) with create_graph=True")
        torch.set_warn_always(True)  # torch warns once: not here, so that it still does where the user asks for a graph
        try:
            yield
        finally:
            torch.set_warn_always(always)
