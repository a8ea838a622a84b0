"""The door: explain a joint, a function, or what was recorded. What does the work is loaded when it is needed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, overload

from torch import nn

from cograd._joint import Joint
from cograd._routes import Trains
from cograd.errors import ModelError, shown
from cograd.explanation._explanation import Explanation

if TYPE_CHECKING:
    from cograd._expect import LossesFunction
    from cograd.explanation._record import Recording


@overload
def explain(losses: Joint, batch: Any) -> Explanation: ...
@overload
def explain(
    losses: LossesFunction, batch: Any, *, models: Mapping[str, nn.Module], trains: Trains | None = None
) -> Explanation: ...
def explain(
    losses: Joint | LossesFunction,
    batch: Any,
    *,
    models: Mapping[str, nn.Module] | None = None,
    trains: Trains | None = None,
) -> Explanation:
    """Which loss reaches which model on ``batch``, by how much, and where a gradient is cut.

    Nothing is changed: parameters, gradients, buffers, flags, modes, random states and the state of a
    joint are as before, to the last bit.

    Args:
        losses: a joint, of which every phase is explained, or a function ``losses(models, batch)``.
        batch: what the losses are evaluated on.
        models: name -> module, for a function.
        trains: loss -> the models that it is meant to train, for a function; all that it reaches without an entry.

    Raises:
        CogradError: the losses cannot be evaluated, or the declaration does not hold together.

    >>> enc, dec = nn.Linear(2, 2), nn.Linear(2, 1)
    >>> found = cograd.explain(
    ...     lambda m, x: {"fit": m.dec(m.enc(x)).sum()}, torch.ones(4, 2), models={"enc": enc, "dec": dec}
    ... )
    >>> found.reached, found.cuts
    ({'fit': {'enc': 2, 'dec': 2}}, ())
    """
    from cograd.explanation._examine import of_function, of_joint

    if isinstance(losses, Joint):
        if models is not None or trains is not None:
            raise ModelError("A joint has its models and routes: leave out models= and trains=.")
        return Explanation(tuple(of_joint(losses, batch)))
    if models is None:
        raise ModelError(
            "explain takes a Joint, or a function with the models that it is given: explain(losses, batch, "
            f"models={{...}}); found {shown(losses)} without models."
        )
    return Explanation(tuple(of_function(losses, batch, models, trains)))


def record(*, models: Mapping[str, nn.Module]) -> Recording:
    """Watch plain code, with backward calls and steps of its own: ``with cograd.record(models=...) as log:``.

    ``log.explain()`` then tells what each ``backward`` gave to each model. A loss is called what the
    code calls it. Results of the code are the same to the last bit.

    Args:
        models: name -> module.

    Raises:
        ModelError: these are no models, or two share parameters.

    >>> net = nn.Linear(2, 1)
    >>> with cograd.record(models={"net": net}) as log:
    ...     loss = net(torch.ones(3, 2)).mean()
    ...     loss.backward()
    >>> log.explain().reached
    {'loss': {'net': 2}}
    """
    from cograd.explanation._record import Recording

    return Recording(models)
