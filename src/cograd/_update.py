"""Run one phase: freeze, evaluate, differentiate, check, step; or leave everything as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from cograd._backward import run
from cograd._losses import Losses, LossLike, check_mapping, evaluate, no_graph, not_finite
from cograd._models import Models, trainable
from cograd._optimizers import members, needs_closure
from cograd._phase import Phase
from cograd._plan import Plan, Planner, unreached
from cograd._report import Report, weighted
from cograd._routes import Mention, check_mentions
from cograd._weights import Weight, Weights
from cograd.errors import (
    ModelError,
    NonFiniteLossError,
    PartialStepError,
    PhaseError,
    RouteError,
    UnreachedError,
    quoted,
)

LossesFunction = Callable[[Any, Any], Losses]


@dataclass(slots=True)
class Setup:
    """What all phases of a ``Joint`` share."""

    models: Models
    losses: LossesFunction
    trains: Mapping[str, Sequence[str]]
    mentions: Sequence[Mention]  # the losses that the user named
    optimizers: Mapping[str, Optimizer]
    check: str
    grad_norms: bool
    freeze_buffers: bool
    returned: set[str] = field(default_factory=set)  # every name that the losses function has returned


class Update:
    """One phase of a ``Joint``, bound to its parameters and optimizers.

    Attributes:
        phase: the declaration.
        weights: the factors of its losses, and the state of its rule.
        plan: the passes that ran last; None before the first.
        closure: the optimizer that evaluates the losses itself, if there is one.
    """

    def __init__(self, setup: Setup, phase: Phase, weights: Weights, siblings: Sequence[Update]) -> None:
        self.setup, self.phase, self.weights, self.siblings = setup, phase, weights, siblings
        self.plan: Plan | None = None
        self._met: dict[str, bool]  # losses that were returned before -> whether they concern this phase
        self._used: set[str] = set()  # losses that had a graph here
        self._idle: set[str] = set()  # losses that had none
        self._unchecked: tuple[Mapping[str, Tensor], Mapping[str, Weight]] = ({}, {})
        self._without = -1  # parameters without gradient in the last update
        self.bind()

    def bind(self) -> None:
        """Look at parameters and optimizers anew, since flags or parameter groups have changed."""
        models = self.setup.models
        self.trained = {name: ps for name in self.phase.models if (ps := trainable(models[name]))}
        self._met = {}
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
        self._planner = Planner(self.trained, self.setup.trains)

    def __call__(self, batch: Any, step: int) -> Report:
        """One simultaneous update. After an exception nothing has changed, unless it is a PartialStepError."""
        if self._unchecked[0]:
            self._refuse(not_finite(*self._unchecked), "one step ago; its update has been made")
        set_aside = [(p, g) for p in self._parameters if (g := p.grad) is not None]
        try:
            for p, _ in set_aside:
                p.grad = None
            with self._freezing(self._still):
                report = self._step_by_closure(batch, step) if self.closure else self._step(batch, step)
        except BaseException:
            for p in self._mine:
                p.grad = None
            for p, g in set_aside:
                p.grad = g
            raise
        for p, g in set_aside:
            p.grad = g
        for name in report.models:
            for p in self.trained[name]:
                p.grad = None
        if self.setup.check == "late":
            self._unchecked = (report.losses, report.weights)
        self.plan = report.plan
        self.weights.commit()
        return report

    def foresee(self, batch: Any, step: int) -> Plan:
        """The plan for ``batch``, without differentiating. Buffers and torch's RNG are put back."""
        models = self.setup.models
        with torch.random.fork_rng(), self._freezing([m for name in models for m in models[name].modules()]):
            losses, _ = self._evaluate(batch, step)
            return self._planner.plan(losses)

    def _step(self, batch: Any, step: int) -> Report:
        report = self._gradients(*self._evaluate(batch, step), step)
        stepped: list[str] = []
        for name, (optimizer, own) in self.optimizers.items():
            if any(p.grad is not None for p in own):
                try:
                    optimizer.step()
                except Exception as error:
                    raise PartialStepError(name, stepped, error) from error
                stepped.append(name)
        return report

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
                report = self._gradients(losses, before, step)
                return sum(report.weighted.values())
            total = sum(weighted(loss.detach(), report.weights[name]) for name, loss in losses.items())
            run(self._planner.plan(losses), losses, report.weights, self.trained)
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

    def _evaluate(self, batch: Any, step: int) -> tuple[dict[str, Tensor], dict[str, float]]:
        """The present losses of this phase that have a graph, and what is known of their weights."""
        returned = check_mapping(self.setup.losses(self.setup.models, batch))
        if not self._met.keys() >= returned.keys():
            self._meet(returned)
        before = self.weights.before(returned, step)
        losses = {}
        for name, value in returned.items():
            if before[name] and self._met[name]:
                loss = evaluate(name, value)
                if loss is None:
                    continue
                if loss.grad_fn is not None or (loss.requires_grad and any(loss is p for p in self._mine)):
                    losses[name] = loss
                else:
                    self._sit_out(name, no_graph(name, loss))
        return losses, before

    def _gradients(self, losses: dict[str, Tensor], before: Mapping[str, float], step: int) -> Report:
        """Differentiate ``losses``, which it empties, and check that the gradients arrived where they should."""
        try:
            plan = self._planner.plan(losses)
        except RouteError:  # a stranger: was a part of a model replaced, or unfrozen?
            self._same_parameters()
            raise
        for name in plan.idle:
            self._sit_out(name, UnreachedError(unreached(name, list(self.trained))))
            del losses[name]
        if not self._used >= losses.keys():
            self._used |= losses.keys()
        weights = self.weights.of(losses, before, step)
        values = {name: loss.detach() for name, loss in losses.items()}
        run(plan, losses, weights, self.trained)
        for p in self._others:  # a losses function that unfreezes what the phase froze changes nothing
            p.grad = None
        if self.setup.check == "now":
            self._refuse(not_finite(values, weights), "no parameter has moved")
        without = [p for p in self._mine if p.grad is None]
        if len(without) != self._without:
            self._same_parameters()
            self._without = len(without)
        skipped, some = self._lacking(values) if without else ((), {})
        models = tuple(name for name in self.trained if name not in skipped)
        norms = {name: _norm(self.trained[name]) for name in models} if self.setup.grad_norms else {}
        return Report(values, weights, plan, models, skipped, some, norms)

    # -- what freezes ------------------------------------------------------------------------------------------------

    @contextmanager
    def _freezing(self, still: Sequence[nn.Module]) -> Iterator[None]:
        """Switch off the gradients of the other models, and put the buffers of ``still`` back when done.

        What the user froze stays as it is.
        """
        values = [(m, key, b, b.clone()) for m in still for key, b in m.named_buffers(recurse=False)]
        try:
            for p in self._frozen:
                p.requires_grad = False
            yield
        finally:
            for p in self._frozen:
                p.requires_grad = True
            with torch.no_grad():
                for module, key, b, value in values:
                    b.copy_(value)
                    setattr(module, key, b)  # forward may have assigned another tensor

    # -- what is refused ---------------------------------------------------------------------------------------------

    def _meet(self, returned: Mapping[str, LossLike]) -> None:
        """Check the names of losses that this phase has not seen before."""
        if not self.setup.returned:
            check_mentions(self.setup.mentions, returned)
        self.setup.returned.update(returned)
        for model in self.trained:
            if not any(self._concerns(name) and self._trains(name, model) for name in self.setup.returned):
                raise PhaseError(
                    f"The phase '{self.phase}' updates {model!r}, but none of the losses "
                    f"{quoted(sorted(self.setup.returned))} trains it there. Declare one in trains, or take {model!r} "
                    "out of the phase. (A loss that is only sometimes there is returned as None when it is not.)"
                )
        self._met.update({name: self._concerns(name) for name in returned})

    def _concerns(self, loss: str) -> bool:
        """May ``loss`` train one of the models of this phase?"""
        if self.phase.losses is not None and loss not in self.phase.losses:
            return False
        return any(self._trains(loss, model) for model in self.trained)

    def _trains(self, loss: str, model: str) -> bool:
        return loss not in self.setup.trains or model in self.setup.trains[loss]

    def _sit_out(self, loss: str, error: Exception) -> None:
        """A loss without a graph may just concern the models that are frozen now. If not, raise ``error``."""
        others = [u for u in self.siblings if u is not self and u._concerns(loss)]
        if loss in self.setup.trains or not self._frozen or all(loss in u._idle - u._used for u in others):
            raise error
        self._idle.add(loss)

    def _lacking(self, losses: Mapping[str, Tensor]) -> tuple[tuple[str, ...], dict[str, tuple[str, ...]]]:
        """The models without any gradient, and of the others the parameters without one."""
        skipped, some = [], {}
        for model in self.trained:
            trained = [(key, p) for key, p in self.setup.models[model].named_parameters() if p.requires_grad]
            keys = tuple(key for key, p in trained if p.grad is None)
            if len(keys) == len(trained):
                self._explain_skipped(model, losses)
                skipped.append(model)
            elif keys:
                some[model] = keys
        return tuple(skipped), some

    def _explain_skipped(self, model: str, losses: Mapping[str, Tensor]) -> None:
        """A model may stay without gradient only if a loss that could train it is absent from this batch."""
        for name in losses:
            if name in self.setup.trains and model in self.setup.trains[name]:
                raise UnreachedError(unreached(name, [model]))
        mine = [name for name in self.setup.returned if self._concerns(name) and self._trains(name, model)]
        if all(name in losses or name in self._idle for name in mine):
            raise UnreachedError(
                f"The phase '{self.phase}' updates {model!r}, but no gradient flows to it from any of its losses "
                f"({quoted(sorted(mine))}). Look for what cuts the way (detach(), .data, no_grad), or take {model!r} "
                "out."
            )

    def _same_parameters(self) -> None:
        """The parameters that the models hold now are those that this phase was bound to."""
        known = {id(p) for p in self._parameters}
        for name in self.setup.models:
            for key, p in self.setup.models[name].named_parameters():
                if id(p) not in known:
                    raise ModelError(
                        f"{name}.{key} was put into the model after the Joint was made, and is in no optimizer: it "
                        "would never train. Add it with optimizer.add_param_group, or make optimizer and Joint anew."
                    )
        if any(p.requires_grad for p in self._frozen):
            raise ModelError(
                f"The losses function switches on requires_grad in a model that the phase '{self.phase}' freezes. "
                "Leave the flags alone there: each phase freezes what it does not update, and undoes it."
            )

    def _refuse(self, what: str | None, when: str) -> None:
        if what:
            self._unchecked = ({}, {})
            raise NonFiniteLossError(
                f"In the phase '{self.phase}' {what}; {when}. Look for a logarithm or root of zero, a division by "
                "zero, or a learning rate that is too high."
            )


def _norm(parameters: Sequence[Tensor]) -> Tensor:
    gradients = [p.grad for p in parameters if p.grad is not None]
    return get_total_norm([g.coalesce().values() if g.is_sparse else g for g in gradients])
