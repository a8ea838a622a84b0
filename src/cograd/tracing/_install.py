"""Connects a recorder to torch, and takes it off again."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils.hooks import RemovableHandle

from cograd.tracing._patches import Patches
from cograd.tracing._recorder import Recorder

Original = Callable[..., Any]
Args = tuple[Any, ...]
Kwargs = dict[str, Any]


@contextmanager
def recording(recorder: Recorder) -> Iterator[Recorder]:
    """Record everything that happens inside."""
    patches = Patches()
    try:
        _optimizers(recorder, patches)
        _gradients(recorder, patches)
        _modules(recorder, patches)
        _fast_paths(recorder, patches)
        _precision(recorder, patches)
        recorder.start_tape()
        yield recorder
    finally:
        recorder.stop_tape()
        patches.close()


def _optimizers(recorder: Recorder, patches: Patches) -> None:
    def before(optimizer: Optimizer, args: Args, kwargs: Kwargs) -> None:
        if recorder.journal.ours():
            with recorder.journal.guarded():
                recorder.steps.before(optimizer, closure=_closure(args, kwargs))

    def after(optimizer: Optimizer, args: Args, kwargs: Kwargs) -> None:
        if recorder.journal.ours():
            with recorder.journal.guarded():
                recorder.steps.after(optimizer, closure=_closure(args, kwargs))

    def made(original: Original, args: Args, kwargs: Kwargs) -> Any:
        result = original(*args, **kwargs)
        with recorder.journal.guarded():
            if hasattr(args[0], "param_groups"):
                recorder.steps.made(args[0])
        return result

    def clear(original: Original, args: Args, kwargs: Kwargs) -> Any:
        owner = recorder.journal.optimizers.of(args[0])
        held = [p for group in args[0].param_groups for p in group["params"]]
        return recorder.steps.clearing(held, owner, lambda: original(*args, **kwargs))

    _hook(patches, register_optimizer_step_pre_hook(before))
    _hook(patches, register_optimizer_step_post_hook(after))
    patches.wrap(Optimizer, "__init__", made)
    patches.wrap(Optimizer, "zero_grad", clear)


def _closure(args: Args, kwargs: Kwargs) -> bool:
    return callable(kwargs.get("closure")) or any(map(callable, args[1:]))


def _gradients(recorder: Recorder, patches: Patches) -> None:
    def backward(original: Original, args: Args, kwargs: Kwargs) -> Any:
        given = args[0] if args else kwargs.get("tensors", ())
        roots = (given,) if isinstance(given, Tensor) else tuple(t for t in given if isinstance(t, Tensor))
        named = dict(zip(("tensors", "grad_tensors", "retain_graph", "create_graph"), args, strict=False)) | kwargs
        retain = bool(named.get("retain_graph") or named.get("create_graph"))
        plain = named.get("grad_tensors") is None and named.get("inputs") is None and not named.get("create_graph")
        if not recorder.journal.ours():
            return original(*args, **kwargs)
        ones = _ones(roots, named.get("grad_tensors"))
        return recorder.backwards.run(roots, retain, plain, ones, lambda: original(*args, **kwargs))

    def clip(original: Original, args: Args, kwargs: Kwargs) -> Any:
        given = args[0] if args else kwargs.pop("parameters")
        parameters = [given] if isinstance(given, Tensor) else list(given)
        with recorder.journal.guarded():
            recorder.journal.grads.settle(recorder.journal.known())
        result = original(parameters, *args[1:], **kwargs)
        with recorder.journal.guarded():
            recorder.journal.grads.accept(recorder.journal.known())
            recorder.steps.clipped(parameters)
        return result

    patches.wrap(torch.autograd, "backward", backward)
    for name in ("clip_grad_norm_", "clip_grad_value_"):
        patches.wrap(nn.utils, name, clip)


def _ones(roots: tuple[Tensor, ...], gradients: Any) -> bool:
    """Whether one loss of several elements is differentiated, with a gradient of one for each."""
    given = gradients if isinstance(gradients, Tensor) else (gradients or (None,))[0]
    if len(roots) != 1 or roots[0].numel() < 2 or not isinstance(given, Tensor) or given.device.type != "cpu":
        return False
    with torch._C.DisableTorchFunction():
        return bool((given == 1).all())


def _modules(recorder: Recorder, patches: Patches) -> None:
    def clear(original: Original, args: Args, kwargs: Kwargs) -> Any:
        return recorder.steps.clearing(args[0].parameters(), None, lambda: original(*args, **kwargs))

    def parameter(module: nn.Module, name: str, value: nn.Parameter | None) -> None:
        if value is not None and recorder.journal.ours():
            with recorder.journal.guarded():
                recorder.setup.made_parameter(value)

    def child(module: nn.Module, name: str, value: nn.Module | None) -> None:
        if value is not None and recorder.journal.ours():
            with recorder.journal.guarded():
                recorder.setup.replaced(module, name, value)
                names = [key for key, known in module._modules.items() if known is value and key != name]
                if names and any(True for _ in value.parameters()):
                    recorder.setup.aliased(value)

    def deepcopy(original: Original, args: Args, kwargs: Kwargs) -> Any:
        result = original(*args, **kwargs)
        if args and isinstance(args[0], nn.Module):
            with recorder.journal.guarded():
                recorder.setup.copied(args[0], result)
        return result

    def load(original: Original, args: Args, kwargs: Kwargs) -> Any:
        result = original(*args, **kwargs)
        with recorder.journal.guarded():
            recorder.setup.loaded(args[0].parameters(), args[1] if len(args) > 1 else kwargs["state_dict"])
        return result

    def switch(original: Original, args: Args, kwargs: Kwargs) -> Any:
        on = args[1] if len(args) > 1 else kwargs.get("requires_grad", True)
        with recorder.journal.guarded():
            recorder.setup.flagged(args[0].parameters(), bool(on))
        with recorder.journal.tape.resting():
            return original(*args, **kwargs)

    def compiled(original: Original, args: Args, kwargs: Kwargs) -> Any:
        recorder.stop_tape()
        recorder.journal.tape.off = True
        recorder.journal.log.unfollowed = "operations are not followed beside torch.compile"
        return original(*args, **kwargs)

    _hook(patches, register_module_parameter_registration_hook(parameter))
    _hook(patches, register_module_module_registration_hook(child))
    patches.wrap(nn.Module, "zero_grad", clear)
    patches.wrap(nn.Module, "load_state_dict", load)
    patches.wrap(nn.Module, "requires_grad_", switch)
    patches.wrap(nn.Module, "compile", compiled)
    patches.wrap(torch, "compile", compiled)
    patches.wrap(copy, "deepcopy", deepcopy)

    def from_numpy(original: Original, args: Args, kwargs: Kwargs) -> Any:
        result = original(*args, **kwargs)
        with recorder.journal.guarded():
            recorder.journal.tape.link(args[0], result, "from_numpy")
        return result

    patches.wrap(torch, "from_numpy", from_numpy)


def _fast_paths(recorder: Recorder, patches: Patches) -> None:
    """Let attention choose its fast path in evaluation, which it does not under a mode, and whose rounding differs."""

    def forward(original: Original, args: Args, kwargs: Kwargs) -> Any:
        module = args[0]
        graded = torch.is_grad_enabled() and any(p.requires_grad for p in module.parameters())
        if module.training or graded or not recorder.taping_here():
            return original(*args, **kwargs)
        recorder.stop_tape()  # a mode of the script's own stays, and decides as it does alone
        try:
            return original(*args, **kwargs)
        finally:
            recorder.start_tape()

    for kind in (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerEncoder):
        patches.wrap(kind, "forward", forward)


def _precision(recorder: Recorder, patches: Patches) -> None:
    scaler = torch.amp.GradScaler

    def step(original: Original, args: Args, kwargs: Kwargs) -> Any:
        before, recorder.steps.scaler = recorder.journal.steps, True
        try:
            result = original(*args, **kwargs)
        finally:
            recorder.steps.scaler = False
        if recorder.journal.steps == before and len(args) > 1:
            with recorder.journal.guarded():
                recorder.steps.skip(args[1])
        return result

    def scale(original: Original, args: Args, kwargs: Kwargs) -> Any:
        result = original(*args, **kwargs)
        with recorder.journal.guarded():
            if args[0].is_enabled():
                recorder.backwards.scaled(result)
        return result

    def unscale(original: Original, args: Args, kwargs: Kwargs) -> Any:
        result = original(*args, **kwargs)
        optimizer = args[1] if len(args) > 1 else kwargs["optimizer"]
        with recorder.journal.guarded():
            recorder.steps.unscaled.add(recorder.journal.optimizers.of(optimizer))
            recorder.journal.grads.accept(recorder.steps.held_by(optimizer))
        return result

    patches.wrap(scaler, "unscale_", unscale)
    patches.wrap(scaler, "step", step)
    patches.wrap(scaler, "scale", scale)


def _hook(patches: Patches, handle: RemovableHandle) -> None:
    patches.undo_with(handle.remove)
