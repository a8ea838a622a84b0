"""The random generators that a loader owns, wherever it keeps them."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from cograd.errors import StateError

_PARTS = (DataLoader, Dataset, Sampler)


def generators(loader: Any, stateless: bool = False) -> dict[str, Any]:
    """The generators by where they are, such as ``loader.sampler.generator``.

    Looks at the attributes of the loader, and of the samplers, datasets and loaders found there.
    The global generators are not among them, and neither are those that draw from the operating
    system. ``stateless`` leaves out the parts that have a ``load_state_dict``.

    >>> from torch.utils.data import DataLoader
    >>> list(generators(DataLoader([1, 2], shuffle=True, generator=torch.Generator())))
    ['loader.generator']
    """
    kinds = (torch.Generator, random.Random, np.random.Generator, np.random.RandomState)
    found: dict[str, Any] = {}
    seen = {id(torch.default_generator), *map(id, torch.cuda.default_generators)}
    queue = [("loader", loader)]
    for path, thing in queue:
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, kinds):
            if not isinstance(thing, random.SystemRandom):
                found[path] = thing
        elif isinstance(thing, (list, tuple)):
            if thing and isinstance(thing[0], (*_PARTS, *kinds)):
                queue += [(f"{path}[{i}]", part) for i, part in enumerate(thing)]
        elif thing is loader or (isinstance(thing, _PARTS) and not (stateless and hasattr(thing, "load_state_dict"))):
            queue += [(f"{path}.{name}", part) for name, part in getattr(thing, "__dict__", {}).items()]
    return found


def states(owned: Mapping[str, Any]) -> dict[str, Any]:
    """What each generator will draw next, in plain containers."""
    return {path: _state(generator) for path, generator in owned.items()}


def restore(owned: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    """Put each generator where it was.

    Raises:
        StateError: what was saved is of another kind of generator.
    """
    for path, generator in owned.items():
        try:
            _set(generator, saved[path])
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise StateError(
                f"{path} is a {type(generator).__name__}, and what was saved is not of one ({type(error).__name__}: "
                f"{error}). Resume with the same loader, or start a new run."
            ) from error


def plain(value: Any) -> Any:
    """NumPy's state with tensors in place of arrays."""
    if isinstance(value, Mapping):
        return {key: plain(part) for key, part in value.items()}
    return torch.from_numpy(value.copy()) if isinstance(value, np.ndarray) else value


def numbers(value: Any) -> Any:
    """The reverse of ``plain``."""
    if isinstance(value, Mapping):
        return {key: numbers(part) for key, part in value.items()}
    return value.numpy() if isinstance(value, Tensor) else value


def _state(generator: Any) -> Any:
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, random.Random):
        return generator.getstate()
    if isinstance(generator, np.random.RandomState):
        return plain(generator.get_state(legacy=False))
    return plain(generator.bit_generator.state)


def _set(generator: Any, state: Any) -> None:
    if isinstance(generator, torch.Generator):
        generator.set_state(state)
    elif isinstance(generator, random.Random):
        generator.setstate(state)
    elif isinstance(generator, np.random.RandomState):
        generator.set_state(numbers(state))
    else:
        generator.bit_generator.state = numbers(state)
