"""Does what was declared to a Joint hold together: phases, routes, rules, optimizers that evaluate the losses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from cograd._balance import check_engine
from cograd._models import trainable
from cograd._optimizer_needs import way_out
from cograd._optimizers import members
from cograd._phase import Phase
from cograd._update import Update
from cograd._weights import Weights, stateful
from cograd.errors import OptimizerError, PhaseError, RouteError, WeightingError, quoted, shown, unknown
from cograd.gramian import At, Engine
from cograd.weighting import Stateful


def own_rule(rule: Any, refresh: int) -> Stateful | None:
    """The rule with a state for one phase. Only Gramians can be refreshed less often.

    Raises:
        WeightingError: it is no rule.
    """
    balance = None if rule is None else stateful(rule)
    return Stateful(rule, refresh) if balance and balance.shares else balance


def check_gramian(
    gramian: Engine | None, refresh: int, watch: int, rules: Sequence[Weights], models: Mapping[str, nn.Module]
) -> None:
    """How gradients are to be compared, and how often, is said only where it is needed.

    Raises:
        WeightingError: a number is out of range, or an option has nothing to act on.
    """
    for name, value, least in (("refresh", refresh, 1), ("watch", watch, 0)):
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise WeightingError(f"{name} must be a whole number of at least {least}; found {shown(value)}.")
    if refresh > 1 and not any(rule.shares for rule in rules):
        raise WeightingError(
            f"refresh={refresh} spares Gramians, but no rule needs them. Leave it out, or choose such a rule."
        )
    check_engine(gramian, rules, watch > 0)
    if isinstance(gramian, At):
        if not isinstance(gramian.where, str):
            raise WeightingError('In a Joint, At takes the name of a model: cograd.gramian.At("encoder").')
        if gramian.where not in models:
            raise WeightingError(f"At({gramian.where!r}) names no model. {unknown('models', gramian.where, models)}")


def parse_phases(phases: Phase | Iterable[Phase] | None, models: Mapping[str, nn.Module]) -> tuple[Phase, ...]:
    """The phases in order; by default one that updates every model that can be trained.

    Raises:
        PhaseError: a phase names a model that does not exist or cannot be trained, or a model has no phase.
    """
    trained = [name for name, model in models.items() if trainable(model)]
    if phases is None:
        if not trained:
            raise PhaseError(f"None of the models {quoted(models)} has a parameter that requires grad.")
        return (Phase(trained),)
    given: Any = phases
    chosen = tuple(given) if isinstance(given, Iterable) and not isinstance(given, str | Mapping | Tensor) else (given,)
    for phase in chosen:
        if not isinstance(phase, Phase):
            named = [repr(name) for name in chosen if isinstance(name, str)]
            turns = f"cograd.alternate({', '.join(named or map(repr, trained))})"
            raise PhaseError(
                f"phases must be Phase objects, or what alternate() and together() return, such as {turns}; found "
                f"{shown(phase)}."
            )
        for name in phase.models:
            if name not in models:
                raise PhaseError(f"The phase '{phase}' names model {shown(name)}. {unknown('models', name, models)}")
            if name not in trained:
                raise PhaseError(f"The phase '{phase}' updates {name!r}, which has no parameter that requires grad.")
    idle = [name for name in trained if not any(name in phase.models for phase in chosen)]
    if idle:
        raise PhaseError(
            f"No phase updates {quoted(idle)}. Give each a phase, or freeze it: model.requires_grad_(False)."
        )
    return chosen


def check_routes(routes: Mapping[str, Iterable[str]], phases: Iterable[Phase]) -> None:
    """Every declared loss trains a model that some phase updates.

    Raises:
        RouteError: one trains none.
    """
    updated = {model for phase in phases for model in phase.models}
    for loss, models in routes.items():
        if not updated.intersection(models):
            raise RouteError(
                f"trains[{loss!r}] names {quoted(models)}, which no phase updates (or has no parameter that requires "
                "grad), so the loss would train nothing. Add a phase, unfreeze the model, or take the loss out."
            )


def check_needs(updates: Iterable[Update]) -> None:
    """An optimizer that evaluates the losses itself, or differentiates the gradients, has one phase for itself alone.

    Raises:
        OptimizerError, WeightingError: it has not, or the phase has options or a rule that it cannot take.
    """
    updates = list(updates)
    for update in updates:
        if name := update.closure or update.graph:
            try:
                _check_needs_of(update, name, updates)
            except (OptimizerError, WeightingError) as error:
                error.args = (f"{error}{way_out(update.setup.optimizers[name])}",)
                raise


def _check_needs_of(update: Update, name: str, updates: Sequence[Update]) -> None:
    what, reason = (
        ("evaluates the losses itself", "compares their values along the way")
        if update.closure
        else ("differentiates the gradients", "needs them as they were taken")
    )
    _check_alone(update, name, what, reason)
    if update.closure and update.graph:
        raise OptimizerError(
            f"optimizer {name!r} both evaluates the losses itself and differentiates gradients, which a Joint "
            "cannot do. Step it in a loop of your own, with cograd.backward(..., create_graph=True)."
        )
    optimizer, own = update.optimizers[name]
    if update.closure and (
        len(own) != len([p for p in members(optimizer) if p.requires_grad])
        or any(u is not update and name in u.optimizers for u in updates)
    ):
        raise OptimizerError(
            f"optimizer {name!r} evaluates the losses itself and may keep one state for all of its parameters, so "
            f"the phase '{update.phase}' must update all of its models, and no other phase any of them."
        )


def _check_alone(update: Update, name: str, what: str, reason: str) -> None:
    balance, setup = update.weights.balance, update.setup
    if update.graph and update.weights.shares:
        raise WeightingError(
            f"optimizer {name!r} {what}, and those that the rule {update.weights.name} of the phase '{update.phase}' "
            "makes have no graph. Choose another optimizer, or a rule that looks at losses alone."
        )
    if update.closure and balance is not None and "jacobian" in balance.rule.needs:
        raise WeightingError(
            f"optimizer {name!r} minimises a weighted sum of the losses of the phase '{update.phase}', and its "
            f"rule {update.weights.name} gives a direction, not weights. A rule that gives weights works, such as "
            "UPGrad(): those of the first evaluation hold during the search. Or choose another optimizer."
        )
    several = [model for model in update.trained if setup.accumulate[model] > 1]
    clipped = [model for names in setup.clips for model in names if model in update.trained]
    for option, there in (
        ("precision='fp16'", setup.precision.scaling),
        (f"accumulate for {quoted(several)}", several),
        (f"clip for {quoted(clipped)}", clipped),
    ):
        if there:
            raise OptimizerError(
                f"optimizer {name!r} {what} and {reason}, which cannot be done with {option}. Leave that out, or "
                "choose another optimizer."
            )
    if len(update.optimizers) > 1:
        others, kind = quoted(n for n in update.optimizers if n != name), type(update.optimizers[name][0]).__name__
        raise OptimizerError(
            f"optimizer {name!r} {what}, so it cannot share the phase '{update.phase}' with {others}. Make one over "
            f"all parameters there: optimizers={kind}([p for model in models.values() for p in model.parameters()]); "
            "or give each a phase of its own: cograd.alternate(...)."
        )


def check_deferred(updates: Iterable[Update]) -> None:
    """A gradient that a phase leaves for later is used by another phase, which can add it to its own.

    Raises:
        PhaseError: no phase uses it, or the model gathers gradients itself.
        OptimizerError: an optimizer evaluates the losses itself, so that there is nothing to add to.
    """
    updates = list(updates)
    for phase, name in [(update.phase, name) for update in updates for name in update.phase.defer]:
        later = [update.phase for update in updates if update.phase.updates(name)]
        if not any(other.stop is None or (phase.stop is not None and phase.stop <= other.stop) for other in later):
            ends = "stops earlier" if later else "is not there"
            raise PhaseError(
                f"The phase '{phase}' leaves the gradient of {name!r} for another phase that updates it, which {ends}, "
                f"so that the gradient is never used. Add one, as in cograd.Phase({name!r}), or take {name!r} out of "
                "defer."
            )
        if updates[0].setup.accumulate[name] > 1:
            raise PhaseError(
                f"The phase '{phase}' leaves the gradient of {name!r} for its next update, and accumulate gathers the "
                "gradients of several batches for it: what would be a mean of what? Take one of the two."
            )
        for update in updates:
            needing = update.closure or update.graph
            if needing is not None and name in update.phase.models:
                what = "evaluates the losses" if update.closure else "differentiates the gradients"
                raise OptimizerError(
                    f"optimizer {needing!r} {what} of the phase '{update.phase}' itself, so the gradient of {name!r} "
                    f"cannot be left there or added to. Take {name!r} out of defer, or choose another optimizer."
                )
