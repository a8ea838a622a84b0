"""Check what the losses function returned, and evaluate what is needed of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from cograd._arity import misfit
from cograd._counted import Mean, Metric
from cograd.errors import LossError, shown

LossLike = Tensor | Mean | Metric | Callable[[], Tensor | Mean | Metric | None] | None
Losses = Mapping[str, LossLike]


@dataclass(slots=True)
class Evaluation:
    """What the losses function has given on one batch.

    Attributes:
        losses: name -> scalar, of the losses that are present.
        counts: loss -> over how many samples it is the mean, where that was said.
        metrics: name -> what is only logged.
    """

    losses: dict[str, Tensor] = field(default_factory=dict)
    counts: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, Metric] = field(default_factory=dict)

    def without_metrics(self, returned: Losses) -> Losses:
        """What is to be evaluated of ``returned``, the metrics being taken out of it."""
        if Metric not in [type(value) for value in returned.values()]:
            return returned
        found = {name: value for name, value in returned.items() if isinstance(value, Metric)}
        self.metrics |= found
        return {name: value for name, value in returned.items() if name not in found}

    def logged(self) -> dict[str, Tensor | float]:
        """Metric -> number, or detached scalar that nobody has waited for."""
        return {name: mean for name, metric in self.metrics.items() if (mean := metric.mean) is not None}


def check_mapping(returned: object) -> Mapping[str, LossLike]:
    """Raises LossError unless ``returned`` maps names to losses."""
    if isinstance(returned, dict | Mapping):  # a dict is much the quickest to recognise
        if all([isinstance(name, str) for name in returned]):
            return returned
        strange = next(name for name in returned if not isinstance(name, str))
        raise LossError(f"The name of a loss must be a string; found {shown(strange)}.")
    missing = " Does the losses function end with return?" if returned is None else ""
    raise LossError(
        f'The losses must be a mapping, as in {{"digit": loss_a, "parity": loss_b}}; found {shown(returned)}.{missing}'
    )


def evaluate(name: str, loss: Any, beside: Evaluation | None = None) -> Tensor | None:
    """The loss as a scalar tensor; None if it is absent, or only logged.

    Args:
        name: what it is called.
        loss: what the losses function returned for it.
        beside: takes its count, or the metric.

    Raises:
        LossError: it is not a scalar of floating type.
    """
    if not isinstance(loss, Tensor):
        loss = _told(name, loss, beside)
        if loss is None:
            return None
    _check_floating(name, loss)
    if loss.numel() != 1:
        raise LossError(
            f"loss {name!r} must be one number; found shape {tuple(loss.shape)}. Reduce it: {name}.mean(), or "
            f"{name}.sum() for a total over the batch."
        )
    scalar: Tensor = loss.reshape(()) if loss.dim() else loss
    return scalar


def _told(name: str, loss: Any, beside: Evaluation | None) -> Tensor | None:
    """What a callable gives, or the mean of a ``Mean``; None for what is no loss in this batch."""
    if callable(loss) and not isinstance(loss, Tensor):
        loss = _called(name, loss)
    if isinstance(loss, Tensor | None):
        return loss
    if isinstance(loss, Metric):
        if beside is not None:
            beside.metrics[name] = loss
        return None
    if isinstance(loss, Mean):
        _check_floating(name, loss.value)
        mean, count = loss.read(name)
        if count and beside is not None:
            beside.counts[name] = count
        return mean if count else None
    raise LossError(f"loss {name!r} must be a tensor; found {shown(loss)}. {_remedy(loss)}")


def _check_floating(name: str, loss: Tensor) -> None:
    if not loss.is_floating_point():
        raise LossError(
            f"loss {name!r} must be a floating tensor, since only those have gradients; found {loss.dtype}. "
            "Look for a cast to integers, a comparison, or argmax on the way."
        )


def _called(name: str, loss: Callable[[], Any]) -> Any:
    try:
        return loss()
    except TypeError as error:
        if problem := misfit(f"loss {name!r}", loss):
            raise LossError(problem) from error
        raise


def no_graph(name: str, loss: Tensor) -> LossError:
    """The error for a loss that cannot be differentiated."""
    leaf = "is a leaf on which requires_grad was set by hand" if loss.requires_grad else "does not require grad"
    return LossError(
        f"loss {name!r} {leaf}, so it can train nothing. Look for what cut it from the models: detach(), .data, "
        "no_grad, .item(), numpy, a tensor built anew. If it is absent from this batch, return None.",
        [name],
    )


def _remedy(loss: object) -> str:
    if isinstance(loss, int | float) and loss == 0:
        return "If it is absent from this batch, return None."
    if isinstance(loss, int | float | complex) or hasattr(loss, "__float__"):
        return "Do not convert it (float(), .item(), numpy): its graph is gone."
    if isinstance(loss, list | tuple | dict):
        return "Give each part a name of its own, or add them up."
    return "Return what a loss function gives, such as nn.MSELoss()(output, target)."
