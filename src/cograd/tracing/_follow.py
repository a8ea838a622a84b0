"""Follows what losses are computed from, while they are computed once: also through numbers and arrays."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cograd.tracing._cuts import Cut, cuts, lost
from cograd.tracing._objects import Numbers
from cograd.tracing._patches import Patches
from cograd.tracing._sites import Site, here
from cograd.tracing._tape import Tape, name_of
from cograd.tracing._values import ESCAPES, reached

_MANY = 1000  # numbers of one list that are remembered
_NEW = "__new__"


class Follower(Tape):
    """A tape for one evaluation. A number that was read from a tensor and comes back is followed too."""

    def __init__(self) -> None:
        super().__init__(Numbers(), lambda: (0, 0), lambda error: None)
        self.judging = False
        self._readings: dict[float, int] = {}
        self._copied: Numbers[Any] = Numbers()

    def used(self, loss: Tensor, parameters: Iterable[Tensor]) -> list[Tensor]:
        """Those of ``parameters`` that the value of ``loss`` depends on."""
        root = self.value_of(loss)
        found = frozenset[int]() if root is None else reached(self.values, root, differentiable=False)
        return [p for p in parameters if self._parameters.get(p) in found]

    def cuts(self, loss: Tensor, parameters: Sequence[Tensor]) -> list[Cut]:
        """The cuts between ``loss`` and ``parameters``, the nearest to the loss first."""
        root, wanted = self.value_of(loss), self._wanted(parameters)
        return [] if root is None else cuts(self.values, root, wanted)

    def lost(self, parameters: Sequence[Tensor]) -> list[Cut]:
        """Where data from ``parameters`` left torch, the latest first."""
        return lost(self.values, self._wanted(parameters))

    def copied(self, source: Tensor, parameter: Tensor) -> None:
        """A parameter was made from a tensor."""
        value = self.value_of(source)
        if value is not None and not isinstance(source, nn.Parameter):
            at = self._add(source.detach(), "Parameter", here(), (value,), (), False, ())
            self._copied.set(parameter, at)

    def _wanted(self, parameters: Iterable[Tensor]) -> frozenset[int]:
        return frozenset(n for p in parameters if (n := self._parameters.get(p)) is not None)

    def _record(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], result: Any, grad_mode: bool
    ) -> None:
        super()._record(func, args, kwargs, result, grad_mode)
        if isinstance(result, Tensor) and self._known.get(result) is None:
            inputs = tuple(dict.fromkeys(self._outside([*args, *kwargs.values()])))
            if inputs:
                self._keep(result, name_of(func), here(), inputs, (), grad_mode, ())

    def _keep(
        self, result: Any, op: str, site: Site, inputs: tuple[int, ...], shapes: tuple[tuple[int, ...], ...],
        grad_mode: bool, numbers: tuple[float, ...],
    ) -> None:  # fmt: skip
        inputs = tuple(dict.fromkeys((*inputs, *(self._readings[x] for x in numbers if x in self._readings))))
        super()._keep(result, op, site, inputs, shapes, grad_mode, numbers)
        if op in ESCAPES:
            for x in _floats(result):
                self._readings[x] = len(self.values) - 1

    def _leaf(self, tensor: Tensor) -> int:
        value, source = super()._leaf(tensor), self._copied.get(tensor)
        if source is not None:
            self.values[value] = replace(self.values[value], inputs=(source,))
        return value

    def _escaped(self) -> tuple[int, ...]:
        """Nothing is guessed here: numbers are known again by their value."""
        return ()

    def _outside(self, things: Iterable[Any], depth: int = 0) -> Iterator[int]:
        """The values that numbers and arrays among ``things`` were read from."""
        for thing in things:
            if isinstance(thing, float) and thing in self._readings:
                yield self._readings[thing]
            elif isinstance(thing, np.ndarray):
                array: Any = thing
                while array is not None and (value := self._known.get(array)) is None:
                    array = getattr(array, "base", None)
                if array is not None and value is not None:
                    yield value
            elif isinstance(thing, (list, tuple)) and depth < 3:
                yield from self._outside(thing[:_MANY], depth + 1)


def _floats(result: Any, depth: int = 0) -> Iterator[float]:
    """The numbers in ``result`` that are unlikely to come up by chance."""
    if isinstance(result, float):
        if math.isfinite(result) and not result.is_integer():
            yield result
    elif isinstance(result, list) and depth < 3:
        for inner in result[:_MANY]:
            yield from _floats(inner, depth + 1)


@contextmanager
def following() -> Iterator[Follower]:
    """Follow what is computed inside. Compiled modules run uncompiled meanwhile."""
    patches, follower = Patches(), Follower()
    with ExitStack() as stack:
        if "torch._dynamo" in sys.modules:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.callback(patches.close)

        def from_numpy(original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            result = original(*args, **kwargs)
            for value in follower._outside(args):
                follower._keep(result, "from_numpy", here(), (value,), (), torch.is_grad_enabled(), ())
            return result

        patches.wrap(torch, "from_numpy", from_numpy)
        _parameters(follower, patches)
        stack.enter_context(follower)
        yield follower


def _parameters(follower: Follower, patches: Patches) -> None:
    original = vars(nn.Parameter)[_NEW]

    def new(cls: Any, data: Any = None, requires_grad: bool = True) -> Any:
        result = original.__func__(cls, data, requires_grad)
        if isinstance(data, Tensor) and not follower.busy:
            follower.busy = True
            try:
                follower.copied(data, result)
            finally:
                follower.busy = False
        return result

    setattr(nn.Parameter, _NEW, staticmethod(new))
    patches.undo_with(lambda: setattr(nn.Parameter, _NEW, original))
