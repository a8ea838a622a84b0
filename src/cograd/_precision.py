"""Precision: one autocast region per phase, and one scale for all float16 gradients of a Joint."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from cograd._clip import gradient_values
from cograd.errors import PrecisionError, report, shown

_LEAST_SCALE = 2.0**-20


@final
@dataclass(frozen=True, slots=True)
class Fp16:
    """float16 autocast, with gradients scaled so that small ones do not vanish.

    Where a gradient overflows, the step is skipped and the scale halved. All gradients of a phase are
    taken and unscaled with one scale, so an overflow in one model changes nothing for the others.

    Args:
        skip: what an overflow skips: ``"all"`` updates of the phase, so that models keep pace, or the
            update by that ``"one"`` optimizer.
        scale: the first scale.
        growth: double the scale after so many phases without overflow.

    Raises:
        PrecisionError: a value is out of range.

    >>> Fp16(skip="one").scale
    65536.0
    """

    skip: str = "all"
    scale: float = 65536.0
    growth: int = 2000

    def __post_init__(self) -> None:
        problems = []
        if not isinstance(self.skip, str) or self.skip not in ("all", "one"):
            problems.append(f"Fp16(skip=...) must be 'all' or 'one'; found {shown(self.skip)}.")
        scale = self.scale
        if (
            not isinstance(scale, int | float)
            or isinstance(scale, bool)
            or not math.isfinite(scale)
            or scale <= 0
            or math.frexp(scale)[0] != 0.5
        ):
            problems.append(
                f"Fp16(scale=...) must be a power of two, so that no bit is lost; found {shown(self.scale)}."
            )
        if not isinstance(self.growth, int) or isinstance(self.growth, bool) or self.growth < 1:
            problems.append(f"Fp16(growth=...) must be a whole number of at least 1; found {shown(self.growth)}.")
        if problems:
            raise PrecisionError(report(problems))


class Precision:
    """In which precision the losses are evaluated, and what that asks of their gradients.

    Args:
        chosen: None, ``"bf16"``, ``"fp16"`` or :class:`Fp16`.
        parameters: those of all models.

    Raises:
        PrecisionError: there is no such precision, or it cannot be used on these parameters.

    Attributes:
        name: what was chosen, for people; empty if nothing was.
        scaling: how float16 gradients are scaled; None in other precisions.
        scale: by which number gradients are multiplied on their way.
    """

    def __init__(self, chosen: Any, parameters: Iterable[Tensor]) -> None:
        self.scaling = (
            Fp16() if isinstance(chosen, str) and chosen == "fp16" else chosen if isinstance(chosen, Fp16) else None
        )
        if self.scaling is None and chosen is not None and not (isinstance(chosen, str) and chosen == "bf16"):
            raise PrecisionError(f"precision must be None, 'bf16', 'fp16' or cograd.Fp16(...); found {shown(chosen)}.")
        self.name = repr(self.scaling) if self.scaling else chosen or ""
        self._dtype = torch.float16 if self.scaling else torch.bfloat16 if chosen else None
        parameters = list(parameters)
        self.device = parameters[0].device.type if parameters else "cpu"
        if self.scaling and any(p.dtype == torch.float16 for p in parameters):
            raise PrecisionError(
                "With precision='fp16' the parameters stay float32 and only the operations run in float16; found "
                "float16 parameters. Take the .half() out."
            )
        self.scale = float(self.scaling.scale) if self.scaling else 1.0
        self._clean = 0  # phases since the last overflow or growth

    def autocast(self) -> AbstractContextManager[Any]:
        """The region in which the losses are evaluated."""
        return torch.autocast(self.device, self._dtype) if self._dtype else nullcontext()

    def refuse_outer(self) -> None:
        """Raises PrecisionError inside an autocast region: backward and optimizers would run in it too."""
        if torch.is_autocast_enabled(self.device):
            raise PrecisionError(
                "step() is called inside an autocast region, in which backward passes and optimizers would run too. "
                "Call it outside, and give the Joint precision='bf16' or 'fp16': it then opens one region per phase."
            )

    def scaled(self, weights: Mapping[str, Tensor | float]) -> Mapping[str, Tensor | float]:
        """The weights by which gradients leave the losses."""
        return {name: w * self.scale for name, w in weights.items()} if self.scaling else weights

    def unscale(
        self, optimizers: Mapping[str, Sequence[Tensor]], apart: Mapping[Tensor, Sequence[Tensor]]
    ) -> tuple[str, ...]:
        """Divide gradients by the scale, and name the optimizers for which one of them has overflowed. Synchronises.

        Args:
            optimizers: name -> parameters.
            apart: parameter -> gradients that are not in its ``.grad``.
        """
        found: dict[str, list[Tensor]] = {}
        for name, parameters in optimizers.items():
            groups: dict[Any, list[Tensor]] = {}
            more = [g._values() if g.is_sparse else g for p in parameters for g in apart.get(p, ())]
            for g in gradient_values(parameters) + more:
                groups.setdefault((g.device, g.dtype), []).append(g)
            for (device, _), gradients in groups.items():
                overflow = torch.zeros(1, device=device, dtype=torch.float32)  # whatever the default dtype is
                inverse = torch.full_like(overflow, 1 / self.scale)
                torch._amp_foreach_non_finite_check_and_unscale_(gradients, overflow, inverse)
                found.setdefault(name, []).append(overflow)
        if not found:
            return ()
        device = next(iter(found.values()))[0].device
        flags = torch.stack([torch.stack([f.to(device) for f in own]).max() for own in found.values()]).tolist()
        return tuple(name for name, flag in zip(found, flags, strict=True) if flag)

    def update(self, overflowed: bool) -> None:
        """A phase is done: halve the scale after an overflow, double it after many phases without.

        Raises:
            PrecisionError: no scale is small enough, so it is not the scale that is at fault.
        """
        if self.scaling is None:
            return
        if overflowed:
            if self.scale / 2 < _LEAST_SCALE:
                raise PrecisionError(
                    f"Gradients overflow float16 at every scale down to {self.scale:.1g}, so the scale is not at "
                    "fault: look for NaN in a backward pass (a root or a norm of zero), or take precision='bf16'."
                )
            self.scale, self._clean = self.scale / 2, 0
        else:
            self._clean += 1
            if self._clean == self.scaling.growth:
                self.scale, self._clean = self.scale * 2, 0

    def state_dict(self) -> dict[str, float | None]:
        """The scale, and for how long it has been good."""
        return {"scale": self.scale if self.scaling else None, "clean": self._clean}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state``, if that was of float16 too."""
        if self.scaling and state["scale"] is not None:
            self.scale, self._clean = float(state["scale"]), int(state["clean"])
