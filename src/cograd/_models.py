"""Named models: what the losses function receives, and the checks that they can be trained apart."""

from __future__ import annotations

from collections.abc import ItemsView, Iterable, Iterator, KeysView, Mapping, ValuesView
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from cograd.errors import ModelError, UnknownModelError, report, shown, unknown

_WRAPPERS = {"DistributedDataParallel", "FullyShardedDataParallel"}

if TYPE_CHECKING:

    class Model(nn.Module):
        """A module of unknown kind, for type checkers: what not every module has may be anything."""

        def __getattr__(self, name: str) -> Any: ...
        def __getitem__(self, key: Any) -> Any: ...
        def __iter__(self) -> Iterator[Any]: ...
        def __len__(self) -> int: ...


class Models:
    """The models by name: ``models.gen`` or ``models["gen"]``. Iterating gives the names, as in a dict.

    A model called ``"keys"``, ``"values"`` or ``"items"`` is what that attribute gives.

    >>> models = Models({"gen": nn.Linear(2, 3), "disc": nn.Linear(3, 1)})
    >>> models.gen is models["gen"], list(models), len(models)
    (True, ['gen', 'disc'], 2)
    >>> for name, model in models.items():
    ...     print(name, model)
    gen Linear(in_features=2, out_features=3, bias=True)
    disc Linear(in_features=3, out_features=1, bias=True)
    """

    def __init__(self, models: Mapping[str, nn.Module]) -> None:
        self.__dict__.update(models)

    def __getitem__(self, name: str) -> Model:
        model: Model = self.__dict__[name] if name in self.__dict__ else self.__getattr__(name)
        return model

    def __getattr__(self, name: str) -> Model:
        raise UnknownModelError(f"There is no model {name!r}. {unknown('models', name, self.__dict__)}")

    def __iter__(self) -> Iterator[str]:
        return iter(self.__dict__)

    def __len__(self) -> int:
        return len(self.__dict__)

    def keys(self) -> KeysView[str]:
        """The names."""
        return self.__dict__.keys()

    def values(self) -> ValuesView[Any]:
        """The modules."""
        return self.__dict__.values()

    def items(self) -> ItemsView[str, Any]:
        """Names and modules."""
        return self.__dict__.items()

    def __repr__(self) -> str:
        return f"Models({', '.join(f'{name}={type(model).__name__}' for name, model in self.__dict__.items())})"


def check_models(models: Any) -> None:
    """Refuse models whose parameters cannot be told apart, or do not exist yet.

    Raises:
        ModelError: lists every problem, each with its remedy.
    """
    if not isinstance(models, Mapping | nn.ModuleDict) or not models:
        raise ModelError(
            f'models maps names to modules, as in {{"gen": G, "disc": D}}; found {shown(models)}.{_by_name(models)}'
        )
    problems = []
    for name, model in models.items():
        if not isinstance(name, str) or not name:
            problems.append(f"A model's name must be a non-empty string; found {shown(name)}.")
        elif isinstance(model, nn.Module):
            problems += _unfit(name, model)
        else:
            problems.append(f"models[{shown(name)}] must be an nn.Module; found {shown(model)}.{_into_a_module(model)}")
    if not problems:
        problems = _overlaps(dict(models.items()))
    if problems:
        raise ModelError(report(problems))


def _unfit(name: str, model: nn.Module) -> Iterator[str]:
    for module in model.modules():
        kind = type(module)
        if kind.__name__ in _WRAPPERS and kind.__module__.startswith("torch."):
            yield (
                f"models[{name!r}] is wrapped in {kind.__name__}, which synchronises gradients for one backward pass "
                "over all of its parameters; cograd may need several. Pass the module that it wraps."
            )
    parameters: Iterable[tuple[str, Any]] = named_parameters(model)
    for key, parameter in parameters:
        if is_lazy(parameter):
            yield f"{name}.{key} is lazy and has no shape yet. Run one batch through {name!r} first."
        elif getattr(parameter, "_post_accumulate_grad_hooks", None) or hasattr(parameter, "_in_backward_optimizers"):
            yield (
                f"{name}.{key} has a hook that acts as soon as its gradient arrives (an optimizer in backward?), "
                "before the gradients of the phase are complete. Remove the hook."
            )


def _by_name(found: object) -> str:
    if isinstance(found, nn.Module):
        return ' Give it a name: {"net": model}.'
    return " Give each a name." if isinstance(found, list | tuple) and found else ""


def _into_a_module(found: object) -> str:
    """What to type instead, with a space before it."""
    if isinstance(found, Tensor):
        return " Put it into one, which can be saved: nn.ParameterList([nn.Parameter(...)])."
    if isinstance(found, type) and issubclass(found, nn.Module):
        return f" Make one of it: {found.__name__}(...)."
    if isinstance(found, Iterator):
        return " Pass the module, not its parameters()."
    if isinstance(found, list | tuple) and found and all(isinstance(part, nn.Module) for part in found):
        return " Make one of them: nn.ModuleList([...])."
    return ""


def _overlaps(models: Mapping[str, nn.Module]) -> list[str]:
    owner_of_module: dict[int, str] = {}
    for name, model in models.items():
        owner_of_module.setdefault(id(model), name)
    problems, inside = [], set()
    for name, model in models.items():
        for path, module in model.named_modules():
            other = owner_of_module.get(id(module))
            if other not in (None, name):
                inside |= {(name, other), (other, name)}
                where = f"is {name}.{plain_name(path)}, inside" if path else "is the same module as"
                problems.append(
                    f"models[{other!r}] {where} models[{name!r}], so their parameters cannot be updated apart. "
                    f"Name the parts of {name!r} instead of the whole, or take {other!r} out.{_own(name, model)}"
                )
    owner: dict[int, tuple[str, str]] = {}
    shared: dict[tuple[str, str], list[str]] = {}
    for name, model in models.items():
        for key, parameter in named_parameters(model):
            first, first_key = owner.setdefault(id(parameter), (name, key))
            if first != name and (first, name) not in inside:
                shared.setdefault((first, name), []).append(f"{first}.{first_key} is {name}.{key}")
    for (first, name), keys in shared.items():
        more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
        problems.append(
            f"models[{first!r}] and models[{name!r}] share parameters ({keys[0]}{more}). "
            f"Name the shared part as a model of its own and leave it out of {first!r} and {name!r}."
        )
    return problems


def _own(name: str, model: nn.Module) -> str:
    """How to name the parameters that hang on the module itself, with a space before it."""
    own = [f"{name}.{plain_name(key)}" for key, _ in model.named_parameters(recurse=False)]
    return f" Parameters that hang on it are a model too: nn.ParameterList([{', '.join(own)}])." if own else ""


def plain_name(key: str) -> str:
    """The name of a part of a model, as it is where nothing is compiled: ``torch.compile`` adds ``_orig_mod``."""
    return ".".join(part for part in key.split(".") if part != "_orig_mod") if "_orig_mod" in key else key


def named_parameters(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The parameters of ``model`` under their plain names."""
    for key, parameter in model.named_parameters():
        yield plain_name(key), parameter


def usable_device(device: Any) -> torch.device:
    """``device``, with its index.

    Raises:
        ModelError: it cannot be used here, or is none.
    """
    if isinstance(device, torch.dtype):
        raise ModelError(
            f"Joint.to moves to a device; found {device}. Convert the models before their optimizers are made, and "
            "then make the Joint: the optimizers would keep states of the old dtype."
        )
    try:
        found = torch.empty(0, device=torch.device(device)).device
    except (AssertionError, NotImplementedError, RuntimeError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(
            f"Joint.to({shown(device)}): cannot be used here ({reason}). Choose another, such as 'cpu'."
        ) from error
    if found.type == "meta":
        raise ModelError("Joint.to('meta') would lose all values, since that device holds none. Choose another.")
    return found


def trainable(model: nn.Module) -> list[Tensor]:
    """The parameters of ``model`` that require grad."""
    return [p for p in model.parameters() if p.requires_grad]


class Statistics:
    """Keep backward passes beyond the first from moving buffers.

    A checkpointed module runs again in each pass through it, and a BatchNorm in it then updates its
    running statistics again. The buffers of each module are left as the first pass that moved them
    has left them, as by one plain backward pass. Where none moves, this only compares version
    counters (a BatchNorm moves its statistics behind torch's back, but not its count of batches).

    Args:
        modules: those that have buffers.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._buffers = [
            [b for b in m._buffers.values() if b is not None and not b.is_inference()] for m in modules if m.training
        ]
        self._before = self._versions()
        self._kept: dict[int, tuple[list[int], list[Tensor]]] = {}

    def passed(self) -> None:
        """A backward pass is done, and another may follow."""
        now = self._versions()
        if now != self._before:
            for i, (old, new) in enumerate(zip(self._before, now, strict=True)):
                if old != new and i not in self._kept:
                    self._kept[i] = new, [b.clone() for b in self._buffers[i]]

    def settle(self) -> None:
        """All passes are done."""
        if self._kept:
            now = self._versions()
            for i, (versions, values) in self._kept.items():
                if now[i] != versions:
                    for b, value in zip(self._buffers[i], values, strict=True):
                        b.data.copy_(value)

    def _versions(self) -> list[list[int]]:
        return [[b._version for b in own] for own in self._buffers]


def with_buffers(models: Iterable[object]) -> list[nn.Module]:
    """The modules in ``models`` that have buffers."""
    return [module for model in models if isinstance(model, nn.Module) for module in model.modules() if module._buffers]


Buffers = list[tuple[nn.Module, str, Tensor, Tensor]]


def noted_buffers(modules: Iterable[nn.Module]) -> Buffers:
    """The buffers of ``modules`` and copies of their values."""
    return [(m, key, b, b.clone()) for m in modules for key, b in m.named_buffers(recurse=False)]


def put_back(buffers: Buffers) -> None:
    """Give buffers the values that were noted, unseen by a graph that still needs them as they were."""
    for module, key, b, value in buffers:
        b.data.copy_(value)
        setattr(module, key, b)  # forward may have assigned another tensor


@contextmanager
def buffers_kept(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Put the buffers of ``modules`` back when done."""
    noted = noted_buffers(modules)
    try:
        yield
    finally:
        put_back(noted)
