"""A number with its count: of a loss (``Mean``), or of what is only logged (``Metric``)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any, final

from torch import Tensor

from cograd.errors import LossError, shown

Count = float | Tensor | None


@final
@dataclass(frozen=True, slots=True, eq=False)
class Mean:
    """A loss that says over how much it is the mean, so that means over batches are means over samples.

    Under ``accumulate`` and in a validation, a batch with three times as many samples (or tokens, pixels,
    labels) then counts three times as much. Everything else sees the mean.

    Args:
        value: the loss of each sample, of any shape, whose mean is the loss; or, with ``count``, that mean.
        count: over how many samples ``value`` is the mean already: a number of at least 0, or a tensor
            with one, for which the step waits on a GPU. None: as many as ``value`` has elements. With
            count 0 the loss is absent from this batch, whatever ``value`` is.

    Raises:
        LossError: one of them is not as described.

    >>> net, x = nn.Linear(2, 1), torch.ones(6, 2)
    >>> report = cograd.backward({"size": cograd.Mean(net(x).square())})
    >>> report.losses["size"].shape, report.counts
    (torch.Size([]), {'size': 6})
    """

    value: Tensor
    count: Count = None

    def __post_init__(self) -> None:
        value: Any = self.value
        if not isinstance(value, Tensor):
            raise LossError(
                "Mean takes a tensor: the loss of each sample, or their mean and its count; found "
                f"{shown(value)}. Do not convert it (float(), .item(), numpy): its graph would be gone."
            )
        _check(self)

    def read(self, name: str) -> tuple[Tensor, float]:
        """The mean and its count. Waits for a GPU if the count is there."""
        if self.count is None:
            return (self.value if self.value.numel() == 1 else self.value.mean()), self.value.numel()
        return self.value, _number(f"loss {name!r}", self.count)


@final
@dataclass(frozen=True, slots=True, eq=False)
class Metric:
    """A value that is logged and never differentiated: an accuracy, a critic's score, a divergence to stop by.

    Return it among the losses. It is in ``report.metrics``, and in a run it is logged as
    ``metric/<name>``, and as ``val/<name>`` where losses are validated.

    Args:
        value: a number, or a tensor, whose mean over all elements is logged (of bools: their share). One
            with dimensions counts its elements.
        count: over how many samples ``value`` is the mean already, as of :class:`Mean`; the mean of a
            validation is weighted by it. With count 0 it is absent from this batch. A tensor is only
            read in a validation.

    Raises:
        LossError: one of them is not as described.

    >>> net, x = nn.Linear(2, 2), torch.ones(6, 2)
    >>> def losses(m, x):
    ...     score = m.net(x)
    ...     return {"fit": score.square().mean(), "positive": cograd.Metric(score > 0)}
    >>> joint = cograd.Joint(models={"net": net}, losses=losses, optimizers=torch.optim.SGD)
    >>> report = joint.step(x)
    >>> list(report.losses), list(report.metrics)
    (['fit'], ['positive'])
    """

    value: Tensor | float
    count: Count = None

    def __post_init__(self) -> None:
        value: Any = self.value
        if not isinstance(value, Tensor | Real) or (isinstance(value, Tensor) and value.is_complex()):
            raise LossError(f"Metric takes a number, or a tensor of real ones; found {shown(value)}.")
        _check(self)

    @property
    def mean(self) -> Tensor | float | None:
        """The number, or a detached tensor with it; None if the metric is known to be absent."""
        if not isinstance(self.value, Tensor):
            return None if self.count == 0 else float(self.value)
        if self.value.numel() == 0 or (not isinstance(self.count, Tensor) and self.count == 0):
            return None
        value = self.value.detach()
        value = value if value.is_floating_point() else value.float()
        return value.reshape(()) if value.numel() == 1 else value.mean()

    def read(self, name: str) -> float | None:
        """The count; None if it was not given. Waits for a GPU if it is there."""
        if self.count is not None:
            return _number(f"metric {name!r}", self.count)
        return self.value.numel() if isinstance(self.value, Tensor) and self.value.dim() else None


def _check(given: Mean | Metric) -> None:
    kind, value = type(given).__name__, given.value
    count = given.count
    if count is None:
        return
    if isinstance(value, Tensor) and value.numel() != 1:
        raise LossError(
            f"{kind}(value, count) takes a value that is a mean already, one number; found {shown(value)}. Take its "
            f"mean, or leave the count out: {kind}(value) counts the elements itself."
        )
    if not _is_count(count):
        raise LossError(
            f"The count of a {kind} is a number of at least 0, or a tensor with one: over how many samples the value "
            f"is the mean; found {shown(count)}."
        )


def _is_count(count: Any) -> bool:
    if isinstance(count, Tensor):
        return count.numel() == 1 and not count.is_complex()
    return not isinstance(count, bool) and isinstance(count, Real) and 0 <= float(count) < math.inf


def _number(what: str, count: float | Tensor) -> float:
    if not isinstance(count, Tensor):
        return count
    found: float = count.item()
    if not 0 <= found < math.inf:
        raise LossError(f"The count of {what} is a number of at least 0; found {found}.")
    return found
