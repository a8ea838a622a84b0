"""Joint: models, losses, optimizers and phases, made into one correct step."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cograd._accumulation import parse_counts
from cograd._arity import misfit
from cograd._asked import Asked
from cograd._clip import Clips, parse_clips
from cograd._declared import check_deferred, check_gramian, check_needs, check_routes, own_rule, parse_phases
from cograd._expect import Expectations, LossesFunction, Setup
from cograd._followers import EMA, Copy
from cograd._look import Look
from cograd._losses import Evaluation
from cograd._models import Models, buffers_kept, check_models, trainable, usable_device
from cograd._optimizers import Optimizers, build_optimizers
from cograd._ownership import check_ownership, choose_optimizers
from cograd._phase import Phase, left_for
from cograd._plan import Plan
from cograd._precision import Fp16, Precision
from cograd._random import random_state, replayed
from cograd._report import Report, StepReport
from cograd._routes import Mention, Trains, parse_trains
from cograd._schedule_free import check_in_training, remember, switchable
from cograd._schedules import Schedulers, build_schedules, look_up
from cograd._state import Extras, load_state, move_state, save_state
from cograd._trailing import build_followers
from cograd._update import Update
from cograd._weights import Factor, Weights
from cograd._whereabouts import tell
from cograd.errors import GradModeError, LossError, ModelError, PartialStepError, PhaseError, RouteError, shown, unknown
from cograd.gramian import Engine
from cograd.weighting import Weighting


@dataclass(frozen=True, slots=True)
class StepPlan:
    """What one step will run. ``print`` it.

    Attributes:
        phases: each phase with its plan; None if it depends on a graph that has not been seen yet.

    >>> print(StepPlan(((Phase("gen", every=5), None),)))
    phase 1: update gen, every 5 batches
      the passes follow from the graph: run a step first, or give plan() a batch
    """

    phases: tuple[tuple[Phase, Plan | None], ...]

    def __str__(self) -> str:
        lines = []
        for i, (phase, plan) in enumerate(self.phases, 1):
            lines.append(f"phase {i}: {phase}")
            lines += [f"  {left}" for left in left_for(phase, [phase for phase, _ in self.phases])]
            text = str(plan) if plan else "the passes follow from the graph: run a step first, or give plan() a batch"
            lines += [f"  {line}" for line in text.splitlines()]
        return "\n".join(lines)


class Joint:
    """Several models, several losses, and which loss trains which model, as one step.

    A step runs its phases in turn. A phase evaluates the losses once, takes every gradient that is
    declared and no other, in the fewest backward passes, and only then steps the optimizers. So no
    loss leaks into another's model, and no step spoils a backward.

    If a phase raises, then parameters, ``.grad``, optimizers, weighting state, counters and flags
    are as before the phase; phases that were completed stay applied. Buffers and the random state
    are not rolled back. After a phase, ``.grad`` of the models that it updated is None.

    Args:
        models: name -> module. No two may share parameters.
        losses: ``losses(models, batch)`` returns name -> scalar tensor, or -> a callable that gives
            one (called only in phases that need it), or -> None (absent from this batch), or ->
            ``cograd.Mean`` (a loss with its count), or -> ``cograd.Metric`` (only logged). The first
            batch must return every name that ``trains``, ``weights`` or a phase mentions.
        trains: loss -> name or names of the models that it trains; a loss without an entry trains
            every model that it reaches.
        optimizers: name -> optimizer (names are free) or list of them (``name[0]``, ``name[1]``); model -> a
            factory such as ``partial(Adam, lr=1e-3)``, called with a list of its trainable parameters;
            ``"*"`` -> a factory for each of the other models. Or one optimizer, or one factory for all.
            In each phase, every parameter that it updates is in exactly one of its optimizers.
        weights: loss -> factor, 1 if missing: a number, or a function of the step (batches seen before),
            such as ``lambda step: min(1.0, step / 1000)``. It scales a loss before a rule over gradients
            sees it, and multiplies what any other rule gives. A loss of weight 0 is dropped.
        weighting: a rule for the weights, or a function from a Gramian to weights; each phase keeps
            its own state of it.
        phases: one phase or several; by default one that updates all models at once.
        check: when a loss, a weight or a gradient that is NaN or infinite is noticed: ``"now"``, before
            any parameter of the phase moves (one synchronisation per phase on a GPU); ``"late"``, when
            the phase runs next (so not in its last run); or ``"off"``.
        missing: what becomes of a loss that was returned before, and then is not: ``"warn"``, once per
            name; ``"raise"``; or ``"allow"``. None says that it is meant, and is always allowed.
        grad_norms: report the 2-norm of each model's gradient.
        freeze_buffers: put back the buffers (running statistics) of frozen models after each phase.
        gramian: how to compare the losses' gradients, for a rule that looks at them and for ``watch``:
            ``cograd.gramian.Rows()``, ``Layerwise()`` or ``At("encoder")``; None for the cheapest
            exact way.
        refresh: let such a rule compute its weights only at each n-th update of a phase. The updates
            between use those weights, and cost hardly more than a plain sum.
        watch: report norms, cosines and conflicts of the losses' gradients at each n-th step, for
            phases whose rule does not look at them; never if 0. Changes nothing of the training.
        clip: bound each model's gradient by its own norm: one number, or model -> number or
            ``cograd.Clip``. A tuple of models as key bounds them together.
        accumulate: micro-batches per update: one number, or model -> number. The gradient is their
            mean, over samples where losses say their count (``cograd.Mean``); a micro-batch in which a
            model gets none does not count. A rule weighs the losses in each micro-batch.
        schedulers: optimizer (or the name of a list of them) -> learning rate scheduler, or a function from
            the optimizer to one; ``"*"`` -> a function for the others; or one function for all. Advances after
            each batch in which its optimizer has stepped; ``cograd.EachEpoch(...)`` at :meth:`end_epoch`.
        followers: name -> ``cograd.EMA("gen")`` or ``cograd.Copy("gen")``: copies that trail behind
            a model, and are among ``models`` for the losses function.
        precision: ``"bf16"``, ``"fp16"`` or ``cograd.Fp16(...)``: evaluate the losses under autocast.
        prepare: ``prepare(models, batch)`` runs once per step, without gradients, and returns what the
            losses function receives as its batch in every phase: for noise, sampled labels, and what
            several phases share. :meth:`evaluate`, :meth:`plan` and ``explain`` do the same.

    Raises:
        ModelError, OptimizerError, RouteError, PhaseError, WeightingError, PrecisionError: the
            declaration does not hold together. The message lists what, and what to do.

    Warns:
        UserWarning: this is one of several processes of ``torch.distributed``; gradients are not averaged.

    Attributes:
        models: the models and followers, by attribute or item.
        optimizers: name -> optimizer.
        phases: the phases, in order.
        steps: batches seen.
        updates: model or follower -> how often it was updated.

    >>> from functools import partial
    >>> gen, disc = nn.Linear(4, 2), nn.Linear(2, 1)
    >>> def losses(m, batch):
    ...     fake = m.gen(torch.randn(len(batch), 4))
    ...     return {"disc": lambda: m.disc(fake).mean() - m.disc(batch).mean(),
    ...             "gen": lambda: -m.disc(fake).mean()}
    >>> joint = cograd.Joint(
    ...     models={"gen": gen, "disc": disc},
    ...     losses=losses,
    ...     trains={"disc": "disc", "gen": "gen"},
    ...     optimizers=partial(torch.optim.Adam, lr=1e-3),
    ...     phases=cograd.alternate("disc", "gen"),
    ... )
    >>> report = joint.step(torch.randn(8, 2))
    >>> list(report.losses), joint.updates
    (['disc', 'gen'], {'gen': 1, 'disc': 1})
    >>> joint
    Joint of gen, disc
      trains: disc -> disc; gen -> gen
      phases: 1. update disc; 2. update gen
      steps: 1; updates: gen 1, disc 1
    """

    def __init__(
        self,
        *,
        models: Mapping[str, nn.Module] | nn.ModuleDict,
        losses: LossesFunction,
        optimizers: Optimizers,
        trains: Trains | None = None,
        weights: Mapping[str, Factor] | None = None,
        weighting: Weighting | Callable[[Tensor], Tensor] | None = None,
        phases: Phase | Iterable[Phase] | None = None,
        check: str = "now",
        missing: str = "warn",
        grad_norms: bool = False,
        freeze_buffers: bool = False,
        gramian: Engine | None = None,
        refresh: int = 1,
        watch: int = 0,
        clip: Clips | None = None,
        accumulate: int | Mapping[str, int] = 1,
        schedulers: Schedulers | None = None,
        followers: Mapping[str, EMA | Copy] | None = None,
        precision: str | Fp16 | None = None,
        prepare: Callable[[Any, Any], Any] | None = None,
    ) -> None:
        check_models(models)
        if problem := misfit("losses", losses, "models", "batch"):
            raise LossError(problem)
        if type(losses).__module__.startswith("torch.nn"):
            raise LossError(
                "losses must be a function losses(models, batch) that returns the losses by name; found "
                f"{shown(losses)}. Call it in such a function."
            )
        if prepare is not None and (problem := misfit("prepare", prepare, "models", "batch")):
            raise LossError(problem)
        for name, flag in (("grad_norms", grad_norms), ("freeze_buffers", freeze_buffers)):
            if not isinstance(flag, bool):
                raise ModelError(f"{name} must be True or False; found {shown(flag)}.")
        if not isinstance(check, str) or check not in ("now", "late", "off"):
            raise LossError(f"check must be 'now', 'late' or 'off'; found {shown(check)}.")
        if not isinstance(missing, str) or missing not in ("warn", "raise", "allow"):
            raise LossError(f"missing must be 'warn', 'raise' or 'allow'; found {shown(missing)}.")
        routes = parse_trains(trains, models.keys())
        own = dict(models.items())
        clips, counts = parse_clips(clip, list(own)), parse_counts(accumulate, list(own))
        self._precision = Precision(precision, [p for model in own.values() for p in model.parameters()])
        self._followers = build_followers(followers, own)
        self._modules = own | {name: follower.model for name, follower in self._followers.items()}
        self.models = Models(self._modules)
        self.optimizers: dict[str, Optimizer] = build_optimizers(optimizers, self._modules)
        self.phases = choose_optimizers(parse_phases(phases, self._modules), self._modules, self.optimizers)
        check_ownership(self._modules, self.optimizers, self.phases)
        self.steps = 0
        self.updates = dict.fromkeys(self._modules, 0)

        chosen = [weighting if phase.weighting is None else phase.weighting for phase in self.phases]
        rules = [Weights(weights, own_rule(rule, refresh)) for rule in chosen]
        check_gramian(gramian, refresh, watch, rules, self._modules)
        mentions = [Mention(name, f"trains[{shown(name)}]", RouteError) for name in routes]
        mentions += [Mention(name, f"the phase '{p}'", PhaseError) for p in self.phases for name in p.losses or ()]
        mentions += [mention for rule in rules for mention in rule.mentions()]
        self._setup = Setup(
            self.models,
            losses,
            routes,
            mentions,
            self.optimizers,
            check,
            grad_norms,
            freeze_buffers,
            self._precision,
            clips,
            counts | dict.fromkeys(self._followers, 1),
            gramian,
            watch,
            prepare,
            missing,
        )
        self._setup.deferred.update({name: {} for phase in self.phases for name in phase.defer})
        self._look = Look(self._setup)
        self._updates: list[Update] = []
        expectations: list[Expectations] = []
        for phase, rule in zip(self.phases, rules, strict=True):
            expectations.append(Expectations(self._setup, phase, expectations))
            self._updates.append(Update(self._setup, phase, rule, expectations[-1]))
        check_routes(routes, self.phases)
        check_deferred(self._updates)
        check_needs(self._updates)
        self._asked = Asked(self.optimizers)
        self._schedules = build_schedules(schedulers, self.optimizers)
        self._asked.add(self._schedules)
        self._everything = [p for model in self._modules.values() for p in model.parameters()]
        self._bound_to = self._flags()
        self._note_switchable()
        self._processes_known = _warn_of_processes()

    def __repr__(self) -> str:
        routes = [f"{loss} -> {', '.join(models)}" for loss, models in self._setup.trains.items()]
        phases = "; ".join(f"{i}. {phase}" for i, phase in enumerate(self.phases, 1))
        rules = dict.fromkeys(repr(u.weights.balance.rule) for u in self._updates if u.weights.balance)
        own = str(self._updates[0].weights)
        weighting = f"  weights: {own}\n" if own else ""
        weighting += f"  weighting: {'; '.join(rules)}\n" if rules else ""
        options = "".join(f"  {line}\n" for line in self._options())
        return (
            f"Joint of {', '.join(name for name in self.models if name not in self._followers)}\n"
            f"  trains: {'; '.join(routes) or 'every loss trains what it reaches'}\n"
            f"  phases: {phases}\n{weighting}{options}"
            f"  steps: {self.steps}; updates: {', '.join(f'{n} {count}' for n, count in self.updates.items())}"
        )

    def _options(self) -> Iterator[str]:
        """Those that are not as usual, for people."""
        setup = self._setup
        for what, entries in (
            ("clip", {" and ".join(names): clip for names, clip in setup.clips.items()}),
            ("accumulate", {name: n for name, n in setup.accumulate.items() if n > 1}),
            ("schedulers", {name: type(schedule.scheduler).__name__ for name, schedule in self._schedules.items()}),
            ("followers", self.followers),
        ):
            if entries:
                yield f"{what}: {'; '.join(f'{name} {value}' for name, value in entries.items())}"
        if self._precision.name:
            yield f"precision: {self._precision.name}"

    def step(self, batch: Any) -> StepReport:
        """Run the phases that are due on ``batch``.

        Returns:
            Losses, weights and plans of each phase, as tensors that nothing has waited for.

        Raises:
            GradModeError: gradients are switched off around the call.
            LossError, UnreachedError, RouteError, PassError: a loss is not as declared.
            NonFiniteLossError: a loss or a gradient is NaN or infinite (see ``check``).
            PartialStepError: an optimizer failed; every other error leaves its phase undone.
        """
        _need_grad_mode("step")
        self._precision.refuse_outer()
        check_in_training(self._switchable)
        if not self._processes_known:
            self._processes_known = True
            _warn_of_processes()  # of a group that began after the joint was made
        reports = []
        phase: Phase | None = None
        try:
            updates = self.updates_now()
            batch = self._setup.prepared(batch)
            for update in updates:
                phase = update.phase
                if phase.due(self.steps):
                    for _ in range(update.phase.repeat):
                        report = update(batch, self.steps)
                        self._updated(report)
                        reports.append(report)
        except BaseException as error:
            for failure in self._advance(reports):
                error.add_note(str(failure))
            if phase is not None:
                tell(error, f"the phase '{phase}'", self._setup.losses, batch)
            raise
        self.steps += 1
        if self._schedules:
            _raise_first(self._advance(reports))
        return StepReport(reports)

    def flush(self) -> tuple[str, ...]:
        """Update the models that hold a part of their ``accumulate`` micro-batches, by the mean of that part.

        Returns:
            Their names. ``end_epoch`` does this too.
        """
        updated: dict[str, None] = {}
        reports = []
        for update in self.updates_now():
            if report := update.flush():
                self._updated(report)
                reports.append(report)
                updated |= dict.fromkeys(report.models)
        _raise_first(self._advance(reports))
        return tuple(updated)

    def freeze(self, *names: str) -> None:
        """These models are done: no phase updates them any more. ``requires_grad_(True)`` undoes it.

        Raises:
            ModelError: there is no such model.

        >>> net, head = nn.Linear(2, 2), nn.Linear(2, 1)
        >>> joint = cograd.Joint(
        ...     models={"net": net, "head": head},
        ...     losses=lambda m, x: {"size": m.head(m.net(x)).square().mean()},
        ...     optimizers=torch.optim.SGD,
        ... )
        >>> joint.freeze("net")
        >>> report = joint.step(torch.ones(4, 2))
        >>> joint.frozen, joint.updates
        (('net',), {'net': 0, 'head': 1})
        """
        own = [name for name in self._modules if name not in self._followers]
        for name in names:
            if not isinstance(name, str) or name not in own:
                raise ModelError(
                    f"freeze({shown(name)}) names no model that is trained. {unknown('models', name, own)}"
                )
        for name in names:
            self._modules[name].requires_grad_(False)

    def parameters(self) -> Iterator[nn.Parameter]:
        """Every parameter of every model once, frozen ones and those of followers too."""
        return iter(dict.fromkeys(p for model in self._modules.values() for p in model.parameters()))

    def train(self) -> Self:
        """Put the models into train mode, and optimizers that have a ``train()`` too; to be called after :meth:`eval`.

        Frozen models and followers stay in the mode in which they are.

        >>> net, teacher = nn.Linear(2, 1), nn.Linear(2, 1).requires_grad_(False).eval()
        >>> joint = cograd.Joint(
        ...     models={"net": net, "teacher": teacher},
        ...     losses=lambda m, x: {"fit": (m.net(x) - m.teacher(x)).square().mean()},
        ...     optimizers=torch.optim.SGD,
        ... )
        >>> joint.eval().train().models.net.training, teacher.training
        (True, False)
        """
        for name, model in self._modules.items():
            if name not in self._followers and trainable(model):
                model.train()
        for optimizer in self._switchable.values():
            optimizer.train()
        return self

    def eval(self) -> Self:
        """Put all models into eval mode, and optimizers that have an ``eval()`` too.

        :meth:`evaluating` does so for a while, and freezes the models.
        """
        for model in self._modules.values():
            model.eval()
        for optimizer in self._switchable.values():
            optimizer.eval()
        return self

    def to(self, device: torch.device | str | int) -> Self:
        """Move models, followers, and the states of optimizers, rules and accumulations to ``device``.

        Raises:
            ModelError: it is no device that can be used here.

        >>> joint = cograd.Joint(
        ...     models={"net": nn.Linear(2, 1)},
        ...     losses=lambda m, x: {"size": m.net(x).square().mean()},
        ...     optimizers=torch.optim.SGD,
        ... )
        >>> joint.to("cpu") is joint
        True
        """
        move_state(self._setup, self._updates, self._extras(), usable_device(device))
        self._bind()
        return self

    @property
    def followers(self) -> dict[str, EMA | Copy]:
        """Name -> how it follows."""
        return {name: follower.rule for name, follower in self._followers.items()}

    @property
    def frozen(self) -> tuple[str, ...]:
        """The models without a parameter that requires grad. Followers are not among them."""
        return tuple(n for n, model in self._modules.items() if n not in self._followers and not trainable(model))

    def _advance(self, reports: Iterable[Report]) -> list[PartialStepError]:
        """The schedulers that count batches, where their optimizers have stepped. Returns what failed."""
        stepped = [name for report in reports for name in report.stepped] if self._schedules else ()
        failures = []
        for name, schedule in self._schedules.items():
            if not schedule.each_epoch:
                try:
                    schedule.advance(name, stepped=stepped)
                except PartialStepError as failure:
                    failures.append(failure)
        return failures

    def _updated(self, report: Report) -> None:
        """These models have moved: count it, and let their followers follow."""
        for name in report.models:
            self.updates[name] += 1
        if self._schedules:
            for name in report.stepped:
                if name in self._schedules:
                    self._schedules[name].stepped()
        for name, follower in self._followers.items():
            if follower.rule.of in report.models:
                try:
                    self.updates[name] += follower.follow(self.updates[name])
                except Exception as error:
                    raise PartialStepError(f"follower {name!r}", report.stepped, error, after=True) from error

    def evaluate(self, batch: Any, mode: str = "eval") -> dict[str, Tensor]:
        """The raw losses on ``batch``, without a step. The training goes on as if nobody had looked.

        Every callable is evaluated; absent losses are left out; metrics are there too. Modes, flags and, in train
        mode, buffers are put back; what is drawn from torch's generator is drawn. Parameters are frozen rather than
        gradients switched off, so that a loss which itself calls ``torch.autograd.grad`` can be evaluated too; where
        it does so at parameters, they are not frozen. An optimizer with ``eval()`` and ``train()`` gives its weights
        for evaluation.

        Args:
            batch: as for :meth:`step`.
            mode: ``"train"`` leaves the models in their modes, for losses that exist only in train mode.

        Raises:
            LossError: there is no such mode, or a loss is not as declared.
        """
        found = self._evaluated(batch, mode)
        return found.losses | {name: torch.as_tensor(value) for name, value in found.logged().items()}

    def _evaluated(self, batch: Any, mode: str = "eval") -> Evaluation:
        """What :meth:`evaluate` returns, with the counts."""
        return self._look(batch, mode)

    @contextmanager
    def evaluating(self) -> Iterator[Models]:
        """Look at the models as :meth:`evaluate` does: in eval mode, frozen, with the weights for evaluation.

        All of this is put back at the end, to the last bit.

        >>> joint = cograd.Joint(
        ...     models={"net": nn.Sequential(nn.Linear(2, 1), nn.Dropout())},
        ...     losses=lambda m, x: {"size": m.net(x).square().mean()},
        ...     optimizers=torch.optim.SGD,
        ... )
        >>> with joint.evaluating() as models:
        ...     models.net(torch.ones(1, 2)).requires_grad, models.net.training
        (False, False)
        """
        with self._look.around():
            yield self.models

    def plan(self, batch: Any = None) -> StepPlan:
        """Which backward passes each phase runs, and why.

        Args:
            batch: evaluate the losses on this batch to find out. Buffers and torch's random state are put
                back. Without one, a phase that has not run yet is shown as open.

        >>> a, b = nn.Linear(2, 1), nn.Linear(2, 1)
        >>> joint = cograd.Joint(
        ...     models={"a": a, "b": b},
        ...     losses=lambda m, x: {"a": m.a(x).mean(), "both": (m.a(x) * m.b(x)).mean()},
        ...     trains={"both": "b"},
        ...     optimizers=torch.optim.SGD,
        ... )
        >>> print(joint.plan(torch.randn(8, 2)))
        phase 1: update a, b
          2 backward passes: both reaches a without training it
            1. a -> a
            2. both -> b
        """
        if batch is None:
            return StepPlan(tuple((update.phase, update.plan) for update in self._updates))
        _need_grad_mode("plan")
        updates = self.updates_now()
        everything = [module for model in self._modules.values() for module in model.modules()]
        with replayed(random_state()), buffers_kept(everything):
            batch = self._setup.prepared(batch)
            return StepPlan(tuple((update.phase, update.foresee(batch, self.steps)) for update in updates))

    def updates_now(self) -> Sequence[Update]:
        """The phases with the parameters and flags as they are now, but those in which all is frozen."""
        if self._flags() != self._bound_to:
            self._bind()
        return tuple([update for update in self._updates if update.trained])

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on, but the random state and the loader.

        Plain tensors, numbers, strings and containers, so that ``torch.load(..., weights_only=True)``
        can read it. The tensors are the live ones, as in ``nn.Module.state_dict``.
        """
        counters = {"steps": self.steps, "updates": dict(self.updates)}
        return save_state(self._setup, self._updates, self._extras(), counters)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where ``state`` was taken, bit for bit.

        Raises:
            StateError: it belongs to another configuration. Lists every difference; nothing is loaded.

        Warns:
            UserWarning: an optimizer or a scheduler was made with other settings, such as a learning rate. Those of
                ``state`` go on.
        """
        counters = {"steps": self.steps, "updates": self.updates}
        load_state(self._setup, self._updates, self._extras(), counters, state)
        self.steps = state["steps"]
        self.updates.update(state["updates"])
        self._bind()

    def end_epoch(self, metrics: Mapping[str, float] | None = None) -> None:
        """An epoch is over: what is left of an accumulation is applied, and what counts epochs counts.

        Args:
            metrics: name -> number, for schedulers that look at one.

        Raises:
            OptimizerError: a scheduler looks at a number that is not there. Nothing was done.
        """
        watched = look_up(self._schedules, metrics)
        self.flush()
        failures = []
        for name, schedule in self._schedules.items():
            if schedule.each_epoch:
                try:
                    schedule.advance(name, watched.get(name))
                except PartialStepError as failure:
                    failures.append(failure)
        for update in self._updates:
            if update.weights.balance is not None:
                update.weights.balance.end_epoch()
        _raise_first(failures)

    def _extras(self) -> Extras:
        return Extras(self._schedules, self._followers, self._precision, self._asked)

    def _flags(self) -> tuple[list[bool], list[int]]:
        """What, when it changes, means that the phases must look at their parameters anew."""
        groups = [len(group["params"]) for o in self.optimizers.values() for group in o.param_groups]
        return [p.requires_grad for p in self._everything], groups

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A copy has parameters of its own, which the phases must look at anew."""
        self.__dict__.update(state)
        self._note_switchable()
        self._bind()

    def _note_switchable(self) -> None:
        """The optimizers that keep other weights for evaluation."""
        self._switchable: dict[str, Any] = {name: o for name, o in self.optimizers.items() if switchable([o])}
        remember(self._switchable.values())

    def _bind(self) -> None:
        check_models(self._modules)
        check_ownership(self._modules, self.optimizers, self.phases)
        for follower in self._followers.values():
            follower.check()
        self._everything = [p for model in self._modules.values() for p in model.parameters()]
        for update in self._updates:
            update.bind()
        self._bound_to = self._flags()


def _raise_first(failures: Sequence[PartialStepError]) -> None:
    for other in failures[1:]:
        failures[0].add_note(str(other))
    for failure in failures:
        raise failure


def _need_grad_mode(method: str) -> None:
    if not torch.is_grad_enabled():
        raise GradModeError(
            f"{method}() needs gradients, but is called inside no_grad or inference_mode. Call it outside; to only "
            "look at the losses, use evaluate()."
        )


def _warn_of_processes() -> bool:
    """Whether there are several, of which the caller's caller was warned."""
    group = torch.distributed
    if not group.is_available() or not group.is_initialized() or group.get_world_size() == 1:
        return False
    warnings.warn(
        f"This is one of {group.get_world_size()} processes of torch.distributed, and a Joint does not average "
        "gradients between processes yet: each trains by itself, and their models drift apart. Use one process; or "
        "take cograd.backward, average .grad yourself, and step the optimizers.",
        stacklevel=3,
    )
    return True
