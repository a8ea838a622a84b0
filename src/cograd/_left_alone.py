"""Left alone: what belongs to the step, and a losses function must not touch: gradients, flags, optimizers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.hooks import RemovableHandle

from cograd._models import Models
from cograd.errors import LossError, ModelError


def refuse_steps(phase: object, parameters: Sequence[Tensor], optimizers: Mapping[str, Optimizer]) -> RemovableHandle:
    """Until this is removed, a step of an optimizer of ``parameters`` raises LossError.

    One of an inner problem, with parameters of its own, may step.
    """

    def refuse(optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        known = {id(p) for p in parameters}
        if any(id(p) in known for group in optimizer.param_groups for p in group["params"]):
            name = next((repr(name) for name, own in optimizers.items() if own is optimizer), "of these models")
            raise LossError(
                f"The losses function steps the optimizer {name} ({type(optimizer).__name__}) in the phase '{phase}'. "
                "A Joint steps each optimizer once all gradients exist: leave step(), backward() and zero_grad() out, "
                "and return the losses."
            )

    return register_optimizer_step_pre_hook(refuse)


def refuse_gradients(phase: object, models: Models) -> None:
    """Raises LossError: the losses function has left a gradient on a parameter."""
    found = [f"{name}.{key}" for name in models for key, p in models[name].named_parameters() if p.grad is not None]
    raise LossError(
        f"The losses function has filled .grad of {_some(found)} in the phase '{phase}', by a backward() or by hand; "
        "that would be added to the gradients which are declared. Return the losses and leave backward() to the Joint; "
        "for a gradient inside of a loss take torch.autograd.grad(...), which fills no .grad."
    )


def refuse_flags(phase: object, models: Models, updated: Sequence[Tensor], frozen: Sequence[Tensor]) -> None:
    """Raises ModelError: the losses function has switched ``requires_grad`` of a parameter.

    Args:
        phase: for the message.
        models: names for the parameters.
        updated: parameters whose flags belong on.
        frozen: parameters whose flags belong off.
    """
    name_of = {id(p): f"{name}.{key}" for name in models for key, p in models[name].named_parameters()}
    off = [name_of.get(id(p), "a parameter") for p in updated if not p.requires_grad]
    if off:
        raise ModelError(
            f"The losses function switches off requires_grad of {_some(off)}, which the phase '{phase}' updates, so "
            "no gradient would arrive there, whatever was computed before. Leave the flags alone: phases, trains and "
            "freeze() say what is trained. (A model that switches between adapters sets their flags: switch without, "
            "or name each adapter as a model.)"
        )
    on = [name_of.get(id(p), "a parameter") for p in frozen if p.requires_grad]
    raise ModelError(
        f"The losses function switches on requires_grad of {_some(on)}, which the phase '{phase}' does not update. "
        "Leave the flags alone there: each phase freezes what it does not update, and undoes it."
    )


def _some(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} (and {len(names) - 1} more)"
