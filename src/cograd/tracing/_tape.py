"""Follows data from parameters through the operations of the first iterations, also where gradients do not flow."""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, nn, overrides
from torch.overrides import TorchFunctionMode
from torch.utils._device import DeviceContext

from cograd.tracing._beside import touched
from cograd.tracing._nodes import is_leaf, node_of
from cograd.tracing._objects import Numbers
from cograd.tracing._sites import Site, callers, here, is_user
from cograd.tracing._values import ESCAPES, Value

_MANY = 60_000  # values at most
_BACK = 50  # readings of values that a new tensor may be made of
_REWRAPS = frozenset({"tensor", "as_tensor", "asarray"})
_PROPERTIES = frozenset({"data", "T", "mT", "H", "mH", "real", "imag"})
_TOUCHES = frozenset({"grad_fn", "register_hook", "retain_grad"})  # how a script comes to the nodes of a graph
_SILENT = frozenset({
    "size", "dim", "numel", "nelement", "stride", "data_ptr", "element_size", "storage_offset", "is_contiguous",
    "is_floating_point", "is_complex", "get_device", "type",
    "register_post_accumulate_grad_hook", "backward", "__len__", "__hash__", "__repr__",
    "__format__", "__bool__", "__contains__", "is_same_size", "has_names", "is_inference", "is_sparse",
    "allclose", "equal", "is_tensor", "untyped_storage", "__setstate__", "__reduce_ex__", "__deepcopy__",
    "__dir__", "is_shared", "_is_view", "is_pinned", "__iter__", "zeros_like", "ones_like", "rand_like",
    "randn_like", "empty_like", "full_like", "new_zeros", "new_ones", "new_empty", "new_full", "new_tensor",
    "share_memory_",
})  # fmt: skip


def name_of(func: Callable[..., Any]) -> str:
    """The name of an operation; that of the property for a getter or setter."""
    name = getattr(func, "__name__", "")
    if name in ("__get__", "__set__"):
        attribute = getattr(getattr(func, "__self__", None), "__name__", "")
        return f"{attribute}=" if name == "__set__" else attribute
    return name


class Tape(TorchFunctionMode):
    """Records operations on what depends on a parameter. It runs each of them unchanged.

    Args:
        parameters: numbers of parameters.
        clock: gives the place in the order of events, and the number of optimizer steps so far.
        failed: called with an exception of the recording itself.

    Attributes:
        values: what was recorded.
        read_gradient: called with a parameter whose gradient the script computes something from.
        made_leaf: called with the tensor's value for each computed tensor that is made to require grad.
        flagged: called with a parameter whose ``requires_grad`` was set.
        wrote: called with a parameter that was written through another tensor of its memory, and that tensor.
        normalised: called with the weight of a batch normalisation that updates its statistics.
    """

    def __init__(
        self,
        parameters: Numbers[Tensor],
        clock: Callable[[], tuple[int, int]],
        failed: Callable[[BaseException], None],
    ) -> None:
        super().__init__()
        self.values: dict[int, Value] = {}
        self.busy = False  # inside a backward or a step, whose operations are torch's own
        self.full = False
        self.off = False
        self.judging = True  # whether elements are finite, which takes a look at all of them
        self.made_leaf: Callable[[int | None, bool], None] = lambda value, scalar: None
        self.flagged: Callable[[Tensor, bool], None] = lambda parameter, on: None
        self.wrote: Callable[[int, Tensor], None] = lambda number, tensor: None
        self.normalised: Callable[[Tensor], None] = lambda weight: None
        self.read_gradient: Callable[[int], None] = lambda number: None
        self._parameters, self._clock, self._failed = parameters, clock, failed
        self._known: Numbers[Any] = Numbers()
        self._gradients: Numbers[Tensor] = Numbers()  # what the script took from .grad, and views of it
        self._pid, self._thread = os.getpid(), threading.get_ident()
        self._leaves: dict[int, int] = {}  # parameter -> value
        self._escapes: deque[int] = deque(maxlen=_BACK)

    def __torch_function__(
        self, func: Callable[..., Any], _types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run ``func``, and take note."""
        kwargs = kwargs or {}
        if self.busy or self.full or self.off or _elsewhere(self._pid):
            return func(*args, **kwargs)
        grad_mode = torch.is_grad_enabled()
        result = func(*args, **kwargs)
        try:
            self._record(func, args, kwargs, result, grad_mode)
        except Exception as error:
            self._failed(error)
        return result

    @contextmanager
    def resting(self) -> Iterator[None]:
        """Record nothing meanwhile; of other threads nothing is recorded anyway."""
        if threading.get_ident() != self._thread:
            yield
            return
        busy, self.busy = self.busy, True
        try:
            yield
        finally:
            self.busy = busy

    def attach(self) -> None:
        """Go below the modes that the script has entered, which it leaves from the top; devices stay at the bottom."""
        modes = _unstack()
        devices = len(list(takewhile(lambda mode: isinstance(mode, DeviceContext), modes)))
        _restack([*modes[:devices], self, *modes[devices:]])

    def detach(self) -> bool:
        """Leave, whatever the script has entered since. False within an operation that it runs: try again later."""
        modes = _unstack()
        _restack([mode for mode in modes if mode is not self])
        return self in modes

    def value_of(self, thing: Any) -> int | None:
        """The value that an object is now."""
        return self._known.get(thing)

    def link(self, source: Any, result: Any, op: str) -> None:
        """Note that ``result`` was made from ``source`` by something that the mode does not see."""
        below = self._known.get(source)
        inputs = self._escaped() if below is None else (below,)
        if inputs:
            self._keep(result, op, here(), inputs, (), torch.is_grad_enabled(), ())

    def _escaped(self) -> tuple[int, ...]:
        """What was turned into arrays and numbers since the last step: any of it may come back in a new tensor."""
        steps = self._clock()[1]
        return tuple(v for v in self._escapes if self.values[v].steps == steps)[-_BACK:]

    def _record(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], result: Any, grad_mode: bool
    ) -> None:
        name = name_of(func)
        if name in _TOUCHES:
            node = result if name == "grad_fn" else args[0].grad_fn
            if node is not None:
                touched(node)
            return
        if name == "grad" and getattr(func, "__name__", "") == "__get__":
            self._took_gradient(args[0], result)
            return
        if name in _SILENT or (getattr(func, "__name__", "") == "__get__" and name not in _PROPERTIES):
            return
        if name in ("requires_grad_", "requires_grad="):
            on = args[1] if len(args) > 1 else kwargs.get("requires_grad", True)
            if isinstance(args[0], nn.Parameter):
                self.flagged(args[0], on)
            elif on and is_leaf(args[0]):
                self.made_leaf(self._known.get(args[0]), args[0].numel() == 1)
            result = args[0]
        if name == "batch_norm" and kwargs.get("training") and kwargs.get("momentum") and args[1] is not None:
            weight = kwargs.get("weight")
            if isinstance(weight, nn.Parameter):
                self.normalised(weight)
        tensors: list[Tensor] = []
        numbers: list[float] = []
        _sort(args, tensors, numbers)
        _sort(kwargs.values(), tensors, numbers)
        if any(map(nn.parameter.is_lazy, tensors)):  # nothing is computed from them yet
            return
        self._read_gradients(name, tensors, result)
        if name in ("data=", "grad="):
            number = self._parameters.get(args[0])
            if name == "data=" and number is not None:
                self.wrote(number, args[0])
            return
        if not tensors:
            if isinstance(result, Tensor) and name in _REWRAPS:
                inputs = self._escaped()
                if inputs or result.requires_grad:
                    self._add(result, name, here(), inputs, (), grad_mode, tuple(numbers))
            return
        if name == "__setitem__" or _in_place(name):
            self._written_by_hand(tensors[0])
            result = tensors[0] if result is None or name == "__setitem__" else result
        inputs = tuple(dict.fromkeys(v for t in tensors if (v := self._input(t)) is not None))
        if inputs:
            site = here()
            if site.via == "optim":
                return
            if isinstance(result, nn.Parameter):  # written in place: it is the same parameter
                return
            shapes = tuple(tuple(t.shape) for t in tensors)
            self._keep(result, name, site, inputs, shapes, grad_mode, tuple(numbers))

    def _took_gradient(self, parameter: Tensor, gradient: Any) -> None:
        number = self._parameters.get(parameter)
        if number is not None and isinstance(gradient, Tensor) and is_user(sys._getframe(3)):
            self._gradients.set(gradient, number)

    def _read_gradients(self, name: str, tensors: list[Tensor], result: Any) -> None:
        """Report that something is computed from gradients, other than in place."""
        if not len(self._gradients) or name == "__setitem__" or _in_place(name):
            return
        for tensor in tensors:
            number = self._gradients.get(tensor)
            if number is not None and name in ("data", "detach", "view"):
                self._gradients.set(result, number)
            elif number is not None:
                self.read_gradient(number)

    def _callers(self, tensor: Tensor | None, inputs: tuple[int, ...], at: int) -> tuple[Site, ...]:
        """Who called, where a rule may ask: for a scalar with a graph, and for what continues an older graph."""
        if tensor is None or not tensor.requires_grad:
            return ()
        below = [self.values[i] for i in inputs]
        older = any(v.at < at and v.requires_grad and v.parameter is None for v in below)
        return callers() if older or not tensor.shape else ()

    def _written_by_hand(self, tensor: Any) -> None:
        """Report a write through ``.data`` or ``detach()`` of a parameter, which torch does not count."""
        value = self.values.get(-1 if (known := self._known.get(tensor)) is None else known)
        below = self.values.get(value.inputs[0]) if value is not None and len(value.inputs) == 1 else None
        if value is not None and below is not None and value.op in ("data", "detach"):
            origin = below if below.parameter is not None else None
            if origin is not None and origin.parameter is not None:
                self.wrote(origin.parameter, tensor)

    def _input(self, tensor: Tensor) -> int | None:
        value = self._known.get(tensor)
        if is_leaf(tensor) and (isinstance(tensor, nn.Parameter) or (tensor.requires_grad and value is None)):
            return self._leaf(tensor)
        if value is not None:
            old = self.values.get(value)
            if old is not None and node_of(tensor) is not None and not old.requires_grad:  # made by a custom Function
                return self._add(tensor, old.op, old.site, (value,), (), True, (), restored=True)
        elif node_of(tensor) is not None:  # from an operation that the mode does not see
            return self._add(tensor, "unseen", here(), tuple(self._leaves_below(tensor)), (), True, ())
        return value

    def _leaf(self, tensor: Tensor) -> int:
        number = self._parameters.of(tensor)
        value = self._leaves.get(number)
        if value is not None and self.values[value].requires_grad == tensor.requires_grad:
            return value
        at, steps = self._clock()
        value = len(self.values)
        self.values[value] = Value(
            value, "parameter", here(), (), tuple(tensor.shape), (), tensor.requires_grad, True, parameter=number,
            at=at, steps=steps,
        )  # fmt: skip
        self._leaves[number] = value
        return value

    def _leaves_below(self, tensor: Tensor) -> Iterator[int]:
        seen: set[Any] = set()
        stack: list[Any] = [tensor.grad_fn]
        while stack and len(seen) < 5000:
            node = stack.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            leaf = getattr(node, "variable", None)
            if isinstance(leaf, Tensor) and leaf.is_leaf:
                yield self._leaf(leaf)
            stack += [n for n, _ in node.next_functions]

    def _keep(
        self, result: Any, op: str, site: Site, inputs: tuple[int, ...], shapes: tuple[tuple[int, ...], ...],
        grad_mode: bool, numbers: tuple[float, ...],
    ) -> None:  # fmt: skip
        if isinstance(result, (tuple, list)) and op not in ESCAPES:
            for inner in result:
                self._keep(inner, op, site, inputs, shapes, grad_mode, numbers)
        elif isinstance(result, Tensor) or op in ESCAPES or op == "from_numpy":
            self._add(result, op, site, inputs, shapes, grad_mode, numbers)

    def _add(
        self, result: Any, op: str, site: Site, inputs: tuple[int, ...], shapes: tuple[tuple[int, ...], ...],
        grad_mode: bool, numbers: tuple[float, ...], *, restored: bool = False,
    ) -> int:  # fmt: skip
        number = len(self.values)
        at, steps = self._clock()
        tensor = result if isinstance(result, Tensor) else None
        node = None if tensor is None else node_of(tensor)
        if restored:  # gradients do flow below, whatever was recorded inside the Function
            inputs = tuple(v.id for i in inputs for v in self._sources(i))
        self.values[number] = Value(
            number, op, site, inputs,
            () if tensor is None else tuple(tensor.shape),
            shapes,
            tensor is not None and tensor.requires_grad,
            grad_mode, numbers, _read(result), None,
            None if node is None else node._sequence_nr(),
            at, steps,
            tensor is not None and not (tensor.is_floating_point() or tensor.is_complex()),
            tensor is None or not self.judging or _finite(tensor),
            self._callers(tensor, inputs, at),
        )  # fmt: skip
        self.full = number >= _MANY
        if op in ESCAPES:
            self._escapes.append(number)
        if not isinstance(result, (bool, int, float, list, str, complex)):
            self._known.set(result, number)
        return number

    def _sources(self, root: int) -> Iterator[Value]:
        """The nearest differentiable values below one that was computed inside a custom Function."""
        seen, stack = {root}, [root]
        while stack:
            value = self.values[stack.pop()]
            if value.requires_grad:
                yield value
                continue
            for i in value.inputs:
                if i not in seen:
                    seen.add(i)
                    stack.append(i)


def _unstack() -> list[TorchFunctionMode]:
    """Take all modes off, the bottom first."""
    modes = []
    while len(overrides._get_current_function_mode_stack()):
        modes.append(overrides._pop_mode())
    return modes[::-1]


def _restack(modes: Iterable[TorchFunctionMode]) -> None:
    for mode in modes:
        overrides._push_mode(mode)


def _elsewhere(pid: int) -> bool:
    return (
        os.getpid() != pid
        or torch.compiler.is_compiling()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch._C._get_tracing_state() is not None
    )


def _sort(things: Iterable[Any], tensors: list[Tensor], numbers: list[float], depth: int = 0) -> None:
    for thing in things:
        if isinstance(thing, Tensor):
            tensors.append(thing)
        elif isinstance(thing, float):
            numbers.append(thing)
        elif isinstance(thing, (list, tuple)) and depth < 3:
            _sort(thing[:2000], tensors, numbers, depth + 1)


def _in_place(name: str) -> bool:
    return (name.endswith("_") and not name.endswith("__")) or name.endswith("=")


def _finite(tensor: Tensor) -> bool:
    if tensor.layout is not torch.strided or not tensor.is_floating_point() or tensor.numel() > 1 << 22:
        return True
    if tensor.device.type != "cpu":
        return True
    known = tensor.detach()  # a sum is not finite where an element is not, and takes a fraction of the time
    return bool(known.sum().isfinite()) or bool(known.isfinite().all())


def _read(result: Any) -> float | None:
    if isinstance(result, (bool, int, float)):
        return float(result)
    if not isinstance(result, Tensor) or result.numel() != 1 or result.layout is not torch.strided:
        return None
    return float(result.detach().item()) if result.device.type == "cpu" and result.is_floating_point() else None
