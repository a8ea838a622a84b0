"""What the script calls its models, parameters and optimizers."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from types import FrameType, ModuleType
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from cograd.tracing._nodes import is_leaf
from cograd.tracing._objects import Numbers
from cograd.tracing._sites import comprehension_names

_MANY = 200  # entries of one container that are looked at


class Names:
    """Names found in the variables of the user's frames, shortest first."""

    def __init__(self, tensors: Numbers[Tensor], optimizers: Numbers[Optimizer]) -> None:
        self._tensors, self._optimizers = tensors, optimizers
        self._seen: weakref.WeakKeyDictionary[Any, set[str]] = weakref.WeakKeyDictionary()
        self.parameters: dict[int, tuple[str, str]] = {}  # -> model, name
        self.optimizers: dict[int, str] = {}
        self.unregistered: dict[int, str] = {}  # parameter -> the attribute that hides it
        self.hidden_by: dict[int, tuple[type, str]] = {}  # the same: the class, and its own name there
        self.aliases: dict[str, str] = {}  # variable -> an older variable for the same module
        self._roots: dict[int, weakref.ref[nn.Module]] = {}
        self._variable: weakref.WeakKeyDictionary[nn.Module, str] = weakref.WeakKeyDictionary()

    def learn(self, frames: list[FrameType]) -> None:
        """Look at the variables of these frames."""
        for frame in frames:
            passing = comprehension_names(frame.f_code)
            if passing is None:
                continue  # in a comprehension: the frame around it has what lasts
            self.learn_from({name: thing for name, thing in frame.f_locals.items() if name not in passing})
            if frame.f_globals is not frame.f_locals:
                self.learn_from(frame.f_globals)

    def learn_from(self, variables: Mapping[str, Any]) -> None:
        """Look at these variables, and two levels into what they hold."""
        for name, thing in list(variables.items()):
            if name.startswith("__"):
                continue
            for path, inner in _unpacked(name, thing):
                self._name(path, inner)

    def _name(self, path: str, thing: Any) -> None:
        if isinstance(thing, nn.Module):
            seen = self._seen.setdefault(thing, set())
            mark = f"{path} {sum(1 for _ in thing.parameters())}"
            if mark in seen and len(seen) < 9:
                return
            seen.add(mark)
            first = self._variable.setdefault(thing, path)
            if first != path:
                self.aliases[path] = first
            for below, parameter in thing.named_parameters():
                self._offer(self._tensors.of(parameter), path, f"{path}.{below}")
                self._roots.setdefault(self._tensors.of(parameter), weakref.ref(thing))
            self._hidden(path, thing)
        elif isinstance(thing, Optimizer):
            self.optimizers.setdefault(self._optimizers.of(thing), path)
        elif isinstance(thing, Tensor) and is_leaf(thing) and (thing.requires_grad or isinstance(thing, nn.Parameter)):
            self._offer(self._tensors.of(thing), path, path)

    def _hidden(self, path: str, module: nn.Module) -> None:
        registered = {id(p) for p in module.parameters()}
        for where, inner in module.named_modules():
            for attribute, held in list(vars(inner).items()):
                if attribute.startswith("_") and attribute.endswith(("hooks", "modules", "parameters", "buffers")):
                    continue
                things = held.values() if isinstance(held, dict) else held if isinstance(held, (list, tuple)) else ()
                for thing in list(things)[:_MANY]:
                    found = thing.parameters() if isinstance(thing, nn.Module) else (thing,)
                    name = ".".join(part for part in (path, where, attribute) if part)
                    for p in found:
                        if isinstance(p, nn.Parameter) and id(p) not in registered:
                            self.unregistered.setdefault(self._tensors.of(p), name)
                            self.hidden_by.setdefault(self._tensors.of(p), (type(inner), attribute))
                            self._offer(self._tensors.of(p), path, name)

    def evaluating(self, parameters: frozenset[int]) -> bool:
        """Whether all models of these parameters, as far as they are known, are in evaluation mode."""
        models = [root() for n in parameters if (root := self._roots.get(n)) is not None]
        return bool(models) and not any(model is None or model.training for model in models)

    def _offer(self, parameter: int, model: str, name: str) -> None:
        old = self.parameters.get(parameter)
        if old is None or _rank(name, model) < _rank(old[1], old[0]):
            self.parameters[parameter] = model, name


def _rank(name: str, model: str) -> tuple[bool, int]:
    """A name through a module, with few dots, is best; a variable of a loop over parameters says little."""
    return name == model, name.count(".")


def _unpacked(name: str, thing: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(thing, (nn.Module, Optimizer, Tensor)):
        yield name, thing
    elif isinstance(thing, (dict, list, tuple)):
        yield from _held(name, thing)
    else:
        for key, inner in list(getattr(thing, "__dict__", {}).items())[:_MANY]:
            path = key if name == "self" else f"{name}.{key}"
            if isinstance(inner, (nn.Module, Optimizer, nn.Parameter)):
                yield path, inner
            elif not key.startswith("_") and not isinstance(thing, (type, ModuleType)):
                yield from _held(path, inner)


def _held(name: str, thing: Any) -> Iterator[tuple[str, Any]]:
    """What a container, or an object of a plain class, holds directly."""
    if isinstance(thing, dict):
        found = [(f"{name}[{key!r}]", inner) for key, inner in list(thing.items())[:_MANY]]
    elif isinstance(thing, (list, tuple)):
        found = [(f"{name}[{i}]", inner) for i, inner in enumerate(thing[:_MANY])]
    elif isinstance(thing, (type, ModuleType)):
        return
    else:
        found = [(f"{name}.{key}", inner) for key, inner in list(getattr(thing, "__dict__", {}).items())[:_MANY]]
    for path, inner in found:
        if isinstance(inner, (nn.Module, Optimizer, nn.Parameter)):
            yield path, inner
