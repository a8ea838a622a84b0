"""Finite: are losses, weights, norms and gradients numbers, all of them at once and with one synchronisation?"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

import torch
from torch import Tensor

Number = Tensor | float


def alarms(scalars: Sequence[Number], gradients: Sequence[Tensor]) -> list[Tensor]:
    """One tensor per device that is not 0 if something there is NaN or infinite. Waits for nothing.

    Args:
        scalars: losses, weights, norms; detached.
        gradients: dense or sparse. Each is multiplied by one in place, which changes no bit of it.
    """
    values = [x for x in scalars if isinstance(x, Tensor)]
    numbers = [x for x in scalars if not isinstance(x, Tensor)]
    if values and _alike(values[0], values, gradients) and all(map(math.isfinite, numbers)):
        return [_alarm(values[0].device, [*gradients, torch.stack(values)])]  # nearly always, and cheap beside a step
    kinds: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    kind: tuple[torch.device, torch.dtype] | None = None
    for gradient in gradients:
        if gradient.is_sparse or gradient.requires_grad or gradient.dtype.is_complex:
            gradient = _values(gradient)
        if kind != (gradient.device, gradient.dtype):  # most often all are of one
            kind = gradient.device, gradient.dtype
            own = kinds.setdefault(kind, [])
        own.append(gradient)
    for kind, own in _by_kind(scalars).items():
        kinds.setdefault(kind, []).append(torch.stack(own))
    found: dict[torch.device, Tensor] = {}
    for (device, _), tensors in kinds.items():
        found[device] = _alarm(device, tensors, found.get(device))
    return list(found.values())


def _alike(first: Tensor, *several: Sequence[Tensor]) -> bool:
    """Whether all are dense, real, of one type and on one device, and may be written to."""
    dtype, device = first.dtype, first.device
    for tensors in several:
        for t in tensors:
            if t.dtype is not dtype or t.device != device or t.is_sparse or t.requires_grad:
                return False
    return not dtype.is_complex


def _alarm(device: torch.device, tensors: list[Tensor], alarm: Tensor | None = None) -> Tensor:
    alarm = torch.zeros(1, device=device, dtype=torch.float32) if alarm is None else alarm
    torch._amp_foreach_non_finite_check_and_unscale_(tensors, alarm, _one(device))
    return alarm


def sounded(found: Sequence[Tensor]) -> bool:
    """Whether one of the :func:`alarms` is not 0. One synchronisation per device."""
    return any([alarm.item() for alarm in found])


def culprit(
    losses: Mapping[str, Tensor],
    weights: Mapping[str, Number],
    norms: Mapping[str, Number],
    gradients: Mapping[str, Tensor | None],
) -> str | None:
    """A sentence about the first of these that is NaN or infinite. Slow: for when an alarm was sounded.

    Args:
        losses: name -> loss.
        weights: loss -> weight.
        norms: model -> norm of its gradient.
        gradients: parameter -> gradient.
    """
    for name, loss in losses.items():
        if not math.isfinite(loss):
            return f"loss {name!r} is {float(loss)}"
    for name, weight in weights.items():
        if not math.isfinite(weight):
            return f"the weight of loss {name!r} is {float(weight)}"
    for name, gradient in gradients.items():
        if gradient is not None and not _values(gradient).isfinite().all():
            kind = "NaN" if _values(gradient).isnan().any() else "infinite"
            return f"the gradient of {name} is {kind}, though every loss is finite"
    for name, norm in norms.items():
        if not math.isfinite(norm):
            return f"the norm of the gradient of {name!r} is {float(norm)}"
    return None


def _values(gradient: Tensor) -> Tensor:
    """The numbers of a gradient, which may be written to."""
    values = gradient._values() if gradient.is_sparse else gradient
    if values.requires_grad:  # a graph hangs on it, which a write would spoil
        values = values.detach().clone()
    return torch.view_as_real(values) if values.is_complex() else values


def _by_kind(scalars: Iterable[Number]) -> dict[tuple[torch.device, torch.dtype], list[Tensor]]:
    """By device and format: float64 where it was that, since it holds what would be infinite in float32."""
    found: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for scalar in scalars:
        if isinstance(scalar, Tensor):
            value = scalar if scalar.dtype in (torch.float32, torch.float64) else scalar.to(torch.float32)
            found.setdefault((value.device, value.dtype), []).append(value)
        elif not math.isfinite(scalar):
            value = torch.tensor(math.nan, device="cpu", dtype=torch.float32)
            found.setdefault((value.device, value.dtype), []).append(value)
    return found


@lru_cache(maxsize=64)
def _one(device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.ones(1, device=device, dtype=torch.float32)
