"""Look at the losses of a joint, or of a function, on one batch."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from cograd._arity import misfit
from cograd._counted import Metric
from cograd._joint import Joint
from cograd._losses import check_mapping, evaluate
from cograd._models import Models, check_models, trainable
from cograd._phase import left_for
from cograd._routes import Mention, Trains, check_mentions, check_metrics, parse_trains
from cograd._update import Update
from cograd._whereabouts import tell
from cograd.errors import CogradError, LossError, RouteError, shown
from cograd.explanation._assemble import Seen, assembled
from cograd.explanation._explanation import Part
from cograd.explanation._measure import gradients
from cograd.explanation._untouched import untouched
from cograd.tracing import Cut, Follower, following

Followed = tuple[dict[str, set[int]], Callable[[str, Sequence[Tensor]], list[Cut]]]


def of_function(losses: Any, batch: Any, models: Mapping[str, nn.Module], trains: Trains | None) -> list[Part]:
    """The one part of a losses function."""
    check_models(models)
    if problem := misfit("losses", losses, "models", "batch"):
        raise LossError(problem)
    routes = parse_trains(trains, models.keys())
    own = {name: ps for name, model in models.items() if (ps := trainable(model))}
    with _telling(losses, batch), untouched(models.values()):
        with following() as tape:
            returned = check_mapping(losses(Models(dict(models)), batch))
            mentions = [Mention(name, f"trains[{shown(name)}]", RouteError) for name in routes]
            check_mentions(mentions, returned)
            check_metrics(mentions, [name for name, value in returned.items() if isinstance(value, Metric)])
            values = {name: evaluate(name, loss) for name, loss in returned.items()}
        present = {name: loss for name, loss in values.items() if loss is not None}
        rows = gradients(present, [p for parameters in own.values() for p in parameters])
    frozen = [name for name in models if name not in own]
    title = f"one evaluation{_frozen(frozen)}"
    return [assembled(Seen(title, own, frozen, rows, *_followed(tape, present, own), routes))]


@contextmanager
def _telling(losses: Any, batch: Any) -> Iterator[None]:
    """An error inside says where in the losses it was raised, and on what batch."""
    try:
        yield
    except Exception as error:
        tell(error, "explain()", losses, batch)
        raise


def of_joint(joint: Joint, batch: Any) -> list[Part]:
    """A part for each phase, in order, all with the parameters as they are now."""
    with _telling(joint, batch), untouched(joint.models[name] for name in joint.models):
        updates = joint.updates_now()
        batch = updates[0].setup.prepared(batch) if updates else batch
        return [_of_phase(joint, update, batch, f"phase {i}: {update.phase}") for i, update in enumerate(updates, 1)]


def _of_phase(joint: Joint, update: Update, batch: Any, title: str) -> Part:
    notes: list[str] = []
    with update.held():
        with following() as tape:
            present = update.present(batch, joint.steps)
        rows = gradients(present, [p for parameters in update.trained.values() for p in parameters])
        weights: Mapping[str, float] = {}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                weights = update.factors({name: present[name] for name in present if rows[name]}, joint.steps)
        except CogradError as error:
            notes.append(f"the shares are without weights: {error}")
    notes += [
        f"loss {name} has weight 0 and is left out" for name, w in update.weights.own(joint.steps).items() if w == 0
    ]
    notes += left_for(update.phase, joint.phases)
    frozen = [name for name in joint.models if name not in update.trained]
    used, cuts = _followed(tape, present, update.trained)
    routes = {name: models for name, models in update.setup.trains.items() if name in present}
    title += _frozen(frozen)
    return assembled(Seen(title, update.trained, frozen, rows, used, cuts, routes, weights, notes))


def _followed(tape: Follower, losses: Mapping[str, Tensor], models: Mapping[str, Sequence[Tensor]]) -> Followed:
    parameters = [p for own in models.values() for p in own]
    used = {name: {id(p) for p in tape.used(loss, parameters)} for name, loss in losses.items()}
    return used, lambda name, wanted: tape.cuts(losses[name], wanted) or tape.lost(wanted)


def _frozen(names: Sequence[str]) -> str:
    return f" ({', '.join(names)} frozen)" if names else ""
