"""Run a plan: fill ``.grad``, or return the gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from cograd._balance import Balanced, balance, check_engine, deposit
from cograd._losses import Evaluation, LossLike, check_mapping, evaluate, no_graph
from cograd._models import Statistics, named_parameters, with_buffers
from cograd._plan import Pass, Plan, Planner
from cograd._report import Report
from cograd._routes import Mention, Trains, check_mentions, check_metrics, parse_trains
from cograd._weights import Factor, Rule, Weight, Weights, cotangent
from cograd.errors import LossError, ModelError, PassError, RouteError, WeightingError, quoted, shown
from cograd.gramian import Engine, Gramian
from cograd.gramian._scope import AllLeaves
from cograd.weighting import Stateful, Weighting

Parameters = nn.Module | Iterable[Tensor]


def run(
    plan: Plan,
    losses: dict[str, Tensor],
    weights: Mapping[str, Weight],
    parameters: Mapping[str, Sequence[Tensor]],
    retain_graph: bool = False,
    create_graph: bool = False,
    modules: Iterable[nn.Module] = (),
    after: Callable[[int], None] | None = None,
) -> None:
    """Accumulate the gradients of ``plan`` into ``.grad``, and call ``after`` with the position of each pass.

    Takes out of ``losses`` each one that no later pass needs, so that its graph is freed even where
    it was retained. Only the first pass may move the buffers of ``modules``.
    """
    still = Statistics(modules if len(plan.passes) > 1 else ())
    for i, p in enumerate(plan.passes):
        torch.autograd.backward(
            [losses[name] for name in p.losses],
            [cotangent(losses[name], weights[name]) for name in p.losses],
            retain_graph=p.retain or retain_graph or create_graph,
            create_graph=create_graph,
            inputs=None if plan.whole else [t for model in p.models for t in parameters[model]],
        )
        still.passed()
        if after is not None:
            after(i)
        for name in p.ends:
            del losses[name]
    still.settle()


def backward(
    losses: Mapping[str, LossLike],
    *,
    models: Mapping[str, Parameters] | None = None,
    trains: Trains | None = None,
    weights: Mapping[str, Factor] | None = None,
    weighting: Rule | None = None,
    gramian: Engine | None = None,
    retain_graph: bool = False,
    create_graph: bool = False,
) -> Report:
    """Differentiate several losses, each for the models that it trains, in the fewest passes.

    Accumulates into ``.grad``, as ``Tensor.backward`` does, and can stand wherever that call stands.
    All gradients are taken before any optimizer steps, so a step cannot spoil a later backward. Inside an
    autocast region they are taken outside of it; losses that are callables are evaluated inside.

    Args:
        losses: name -> scalar tensor, a callable that gives one, or None if it is absent; or
            ``cograd.Mean``, or ``cograd.Metric``, which is only reported.
        models: name -> module, or its parameters. Needed for ``trains``, and for running statistics
            of checkpointed modules to move as in one backward pass where several are needed.
        trains: loss -> name or names of the models that it trains; a loss without an entry trains
            every parameter that it reaches.
        weights: loss -> fixed factor, 1 if missing. A loss of weight 0 is dropped. A function of the
            step needs a ``Stateful`` rule, whose ``steps`` it is given.
        weighting: a rule for the weights, or a function from a Gramian to weights. A rule that
            remembers earlier steps is wrapped once: ``balance = cograd.weighting.Stateful(rule)``.
            A rule that looks at gradients compares those on the parameters of ``models``; without
            ``models``, on shared leaves that are ``nn.Parameter``, or on all shared leaves if none
            is. Every other leaf, such as an input that requires grad, gets the gradient of the
            plain sum with the fixed ``weights``; none if there is ``trains``.
        gramian: how to compute the inner products of gradients, for a rule that looks at them:
            ``cograd.gramian.Rows()``, ``Layerwise()`` or ``At(z)``; None for the cheapest exact way.
        retain_graph: keep the graph for another backward.
        create_graph: make the gradients differentiable.

    Returns:
        The detached losses, the weights, the plan that ran, and what is known of the gradients.

    Raises:
        LossError: a loss is not a floating scalar with a graph.
        ModelError: a model is not a module or its parameters, or two share a parameter.
        RouteError: an unknown name, or a loss that reaches a parameter of no model.
        UnreachedError: a loss reaches no parameter of a model that it is declared to train.
        WeightingError: a weight is not a finite number, or the rule cannot be used here.

    >>> gen, disc = nn.Linear(2, 2), nn.Linear(2, 1)
    >>> score = disc(gen(torch.randn(8, 2))).mean()
    >>> report = cograd.backward(
    ...     {"disc": score, "gen": -score},
    ...     models={"disc": disc, "gen": gen},
    ...     trains={"disc": "disc", "gen": "gen"},
    ... )
    >>> print(report.plan)
    2 backward passes: disc reaches gen without training it; gen reaches disc without training it
      1. disc -> disc
      2. gen -> gen
    """
    _check_flags(retain_graph=retain_graph, create_graph=create_graph)
    ready = _prepare(losses, _named({} if models is None else models), trains, weights, weighting, gramian)
    modules = ready.moving((models or {}).values())
    with _without_autocast(ready.losses):
        if ready.weights.shares:
            found = _balance(ready, gramian, retain_graph, create_graph, modules, everything=True)
            deposit(found.gradients)
            report = _report(ready, found.weights, found.gramian)
        else:
            factors = ready.factors()
            report = _report(ready, factors)
            run(ready.plan, ready.losses, factors, ready.planner.parameters, retain_graph, create_graph, modules)
        ready.weights.commit()
    return report


def grad(
    losses: Mapping[str, LossLike],
    *,
    models: Mapping[str, Parameters],
    trains: Trains | None = None,
    weights: Mapping[str, Factor] | None = None,
    weighting: Rule | None = None,
    gramian: Engine | None = None,
    retain_graph: bool = False,
    create_graph: bool = False,
) -> dict[str, dict[str, Tensor | None]]:
    """The gradients that :func:`backward` would add, without touching any ``.grad``.

    Args:
        losses: as in :func:`backward`, and so are the other arguments.
        models: name -> module, or its parameters.

    Returns:
        Model -> parameter name -> gradient of the parameter's shape; None where no loss reaches it.
        Parameters given as an iterable are named by their position, ``"0"``, ``"1"``, ...

    Raises:
        CogradError: as :func:`backward`.

    >>> net = nn.Linear(2, 1, bias=False)
    >>> cograd.grad({"sum": net(torch.tensor([[1.0, 3.0]])).sum()}, models={"net": net})
    {'net': {'weight': tensor([[1., 3.]])}}
    """
    _check_flags(retain_graph=retain_graph, create_graph=create_graph)
    named = _named(models)
    ready = _prepare(losses, named, trains, weights, weighting, gramian)
    total: dict[int, Tensor] = {}
    modules = ready.moving(models.values())
    with _without_autocast(ready.losses):
        if ready.weights.shares:
            total = {id(t): g for t, g in _balance(ready, gramian, retain_graph, create_graph, modules).gradients}
        else:
            still = Statistics(modules)
            factors = ready.factors()
            for p in ready.plan.passes:
                inputs = [t for model in p.models for t in ready.planner.parameters[model]]
                gradients = torch.autograd.grad(
                    [ready.losses[name] for name in p.losses],
                    inputs,
                    [cotangent(ready.losses[name], factors[name]) for name in p.losses],
                    retain_graph=p.retain or retain_graph or create_graph,
                    create_graph=create_graph,
                    allow_unused=True,
                )
                for t, g in zip(inputs, gradients, strict=True):
                    if g is not None:
                        total[id(t)] = total[id(t)] + g if id(t) in total else g
                still.passed()
            still.settle()
        ready.weights.commit()
    return {name: {key: total.get(id(t)) for key, t in tensors.items()} for name, tensors in named.items()}


@dataclass(frozen=True, slots=True)
class _Ready:
    """Everything that is decided before the first pass."""

    losses: dict[str, Tensor]
    weights: Weights
    before: Mapping[str, float]
    step: int
    planner: Planner
    plan: Plan
    beside: Evaluation

    def factors(self) -> dict[str, Weight]:
        return self.weights.of(self.losses, self.before, self.step)

    def moving(self, models: Iterable[object]) -> list[nn.Module]:
        """The modules in ``models`` whose buffers several passes could move."""
        return with_buffers(models) if self.weights.shares or len(self.plan.passes) > 1 else []


def _prepare(
    losses: Mapping[str, LossLike],
    models: Mapping[str, Mapping[str, Tensor]],
    trains: Trains | None,
    weights: Mapping[str, Factor] | None,
    weighting: Rule | None,
    gramian: Engine | None,
) -> _Ready:
    found = Evaluation()
    losses = found.without_metrics(check_mapping(losses))
    if isinstance(trains, Mapping) and trains and not models:
        raise RouteError("trains names models, and there are none. Give models={name: module}.")
    groups = {name: [t for t in named.values() if t.requires_grad] for name, named in models.items()}
    routes = parse_trains(trains, groups)
    if isinstance(weighting, Weighting) and weighting.remembers:
        raise WeightingError(
            f"{type(weighting).__name__} remembers earlier steps, and a function has no place for that. Make it "
            f"stateful once, before the loop: balance = cograd.weighting.Stateful({weighting!r}), and pass balance."
        )
    factors = Weights(weights, weighting)
    check_engine(gramian, [factors])
    if factors.follows_step and not isinstance(weighting, Stateful):
        name = next(name for name, factor in (weights or {}).items() if callable(factor))
        raise WeightingError(
            f"weights[{shown(name)}] is a function of the step, and cograd.backward counts none. Call it with yours: "
            f"weights={{{name!r}: f(step)}}; or pass a weighting=cograd.weighting.Stateful(...), made once before the "
            "loop, which counts."
        )
    mentions = [Mention(name, f"trains[{shown(name)}]", RouteError) for name in routes]
    check_metrics(mentions + factors.mentions(), found.metrics)
    check_mentions(mentions + factors.mentions(), losses)
    step = weighting.steps if isinstance(weighting, Stateful) else 0
    before = factors.before(losses, step)
    present = found.losses
    for name, value in losses.items():
        loss = evaluate(name, value, found) if before[name] else None
        if loss is not None:
            if not loss.requires_grad:
                raise no_graph(name, loss)
            present[name] = loss
    check_metrics(mentions + factors.mentions(), found.metrics)
    if not present:
        raise LossError(
            f"There is nothing to differentiate: of the losses {quoted(losses)}, none is present. Leave out such a "
            "batch."
        )
    planner = Planner(groups, routes)
    if routes:
        plan = planner.plan(present)
    else:
        only = Pass(tuple(present), tuple(groups), ends=tuple(present))
        plan = Plan((only,), "every loss trains every model that it reaches", whole=True)
    return _Ready(present, factors, before, step, planner, plan, found)


def _balance(
    ready: _Ready,
    gramian: Engine | None,
    retain_graph: bool,
    create_graph: bool,
    modules: Iterable[nn.Module],
    everything: bool = False,
) -> Balanced:
    """Under a rule that looks at gradients. ``everything``: also leaves that are in no model, unless routes forbid."""
    if create_graph:
        raise PassError(
            "create_graph=True asks for differentiable gradients, and the weights of a rule are constants. Leave one "
            "of the two out."
        )
    group_of: Mapping[int, int] = ready.planner.group_of
    routes = [ready.planner.route(name) for name in ready.losses]
    if everything and not ready.planner.trains:
        group_of, routes = AllLeaves(group_of if ready.planner.parameters else None), [1] * len(ready.losses)
    losses = {name: loss for name, loss in ready.losses.items() if name not in ready.plan.idle}
    still = Statistics(modules)
    return balance(losses, ready.weights, ready.step, group_of, routes, gramian, retain_graph, statistics=still)


def _without_autocast(losses: Mapping[str, Tensor]) -> ExitStack:
    """No autocast for what compares and combines gradients: it would round to half precision."""
    off = ExitStack()
    for device in {loss.device.type for loss in losses.values()}:
        if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
            off.enter_context(torch.autocast(device, enabled=False))
    return off


def _report(ready: _Ready, weights: Mapping[str, Weight], gramian: Gramian | None = None) -> Report:
    detached = {k: w.detach() if isinstance(w, Tensor) else w for k, w in weights.items()}
    rule = ready.weights.balance
    plan = replace(ready.plan, rule=type(rule.rule).__name__) if rule and rule.shares else ready.plan
    losses = {name: ready.losses[name].detach() for name in weights}
    metrics, counts = ready.beside.logged(), ready.beside.counts
    return Report(losses, detached, plan, gramian=gramian, metrics=metrics, counts=counts)


def _check_flags(**flags: Any) -> None:
    for name, flag in flags.items():
        if not isinstance(flag, bool):
            raise PassError(f"{name} must be True or False; found {shown(flag)}.")


def _named(models: Mapping[str, Parameters]) -> dict[str, dict[str, Tensor]]:
    """Model -> parameter name -> parameter. Reads every iterable once."""
    if not isinstance(models, Mapping):
        raise ModelError(f'models maps names to modules, as in {{"gen": G, "disc": D}}; found {shown(models)}.')
    named: dict[str, dict[str, Tensor]] = {}
    for name, model in models.items():
        if not isinstance(name, str) or not name:
            raise ModelError(f"A model's name must be a non-empty string; found {shown(name)}.")
        named[name] = {}
        if isinstance(model, nn.Module):
            named[name] |= named_parameters(model)
            continue
        tensors = list(model) if isinstance(model, Iterable) and not isinstance(model, str | Mapping) else []
        if not tensors or not all(isinstance(t, Tensor) and t.is_leaf for t in tensors):
            raise ModelError(
                f"models[{shown(name)}] must be a module or its parameters; found {type(model).__name__} with none. "
                "(A generator can be read only once: pass the module, or a list.)"
            )
        named[name] = {str(i): t for i, t in enumerate(tensors)}
    owner: dict[int, str] = {}
    for name, parameters in named.items():
        for key, t in parameters.items():
            first = owner.setdefault(id(t), f"{name}.{key}")
            if t.requires_grad and first != f"{name}.{key}":
                raise ModelError(
                    f"{first} and {name}.{key} are the same parameter, so it has no model of its own. Name the shared "
                    "part as a model, and leave it out of the others."
                )
    return named
