"""A copy of a model that trails behind it: what of it is averaged, and what is copied."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from cograd._followers import EMA, Copy
from cograd._models import named_parameters, plain_name
from cograd.errors import ModelError, report, shown, unknown

_MOST = 4  # lines of a message


class Follower:
    """A copy of a model, with gradients off and in eval mode, and the rule by which it follows.

    What was never trained is copied: an average of it would be rounded, and of integers cut. What has
    fewer than 32 bits is averaged in float32, where small updates are not rounded away.

    Args:
        name: of the follower.
        rule: how it follows.
        source: the model.
        others: all models, and the followers made before.

    Raises:
        ModelError: there can be no such copy.

    Attributes:
        model: the copy.
        seen: updates of the model since the copy was made.
    """

    def __init__(self, name: str, rule: EMA | Copy, source: nn.Module, others: Mapping[str, nn.Module]) -> None:
        self.name, self.rule, self._source = name, rule, source
        self.seen = 0
        if rule.copy is not None:
            self._check_copy(rule.copy, others)
        self.model = (self._deep_copy() if rule.copy is None else rule.copy).requires_grad_(False).eval()
        self._averaged = {key for key, p in _parameters(source).items() if p.requires_grad}
        self._wide: dict[str, Tensor] = {}  # float32 averages of what the copy holds in fewer bits
        self._versions: dict[str, int] = {}  # of those parameters of the copy, when they were last written here
        self._known: list[nn.Module] = []  # the modules of the model, as they were last walked
        self._modules: list[tuple[nn.Module, nn.Module]] = []
        self._slots: list[tuple[str, dict[str, Any], dict[str, Any], str]] = []
        if rule.copy is not None:
            self._renew()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A copied tensor has another version."""
        self.__dict__.update(state)
        self._known = []
        self._note_versions()

    def check(self) -> None:
        """Raises ModelError unless model and copy still have the same parameters."""
        if problems := list(_unlike(self.model, self._source)):
            raise ModelError(
                f"models[{self.rule.of!r}] has changed its parameters since followers[{self.name!r}] was made of it: "
                f"{report(problems, _MOST)} Make the Joint anew."
            )

    @torch.no_grad()
    def follow(self, updates: int) -> bool:
        """The model was updated: follow it, if it is time to.

        Args:
            updates: how often it was followed before.
        """
        self.seen += 1
        if self.seen % self.rule.every:
            return False
        if weight := self.rule.weight(updates):
            self._average(weight)
        else:
            self._renew()
        return True

    def state_dict(self) -> dict[str, Any]:
        """What the copy itself does not hold."""
        return {"seen": self.seen, "averaged": sorted(self._averaged), "wide": dict(self._wide)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where ``state`` was taken; the copy has been loaded before."""
        own = _parameters(self.model)
        self.seen, self._averaged = state["seen"], set(state["averaged"])
        self._wide = {key: wide.to(own[key].device, copy=True) for key, wide in state["wide"].items()}
        self._note_versions()

    def differences(self, state: Mapping[str, Any]) -> Iterator[str]:
        """Why ``state`` cannot be loaded."""
        own = {key: tuple(p.shape) for key, p in _parameters(self.model).items()}
        for key, wide in state["wide"].items():
            if own.get(key) != tuple(wide.shape):
                found = f"is {own[key]}" if key in own else "does not exist"
                yield f"{self.name}.{key} {found} in the follower, and its average is {tuple(wide.shape)} in the state."

    @torch.no_grad()
    def _renew(self) -> None:
        self._wide.clear()
        _copy([(own, theirs) for _, own, theirs in self._pairs()])
        self._follow_buffers()

    def _average(self, weight: float) -> None:
        full: list[tuple[Tensor, Tensor]] = []
        narrow: dict[str, tuple[Tensor, Tensor]] = {}
        still: list[tuple[Tensor, Tensor]] = []
        for key, own, theirs in self._pairs():
            if theirs.requires_grad:
                self._averaged.add(key)
            if key not in self._averaged:
                still.append((own, theirs))
            elif torch.finfo(own.dtype).bits < 32:
                narrow[key] = own, theirs
            else:
                full.append((own, theirs))
        if full:
            averages = [own for own, _ in full]
            get_ema_multi_avg_fn(weight)(averages, _like(averages, [theirs for _, theirs in full]), 0)
        self._average_wide(weight, narrow)
        _copy(still)
        self._follow_buffers()

    def _average_wide(self, weight: float, narrow: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        for key, (own, _) in narrow.items():
            if key not in self._wide or own._version != self._versions[key]:  # somebody has written into the copy
                self._wide[key] = own.to(_wider(own.dtype), copy=True)
        self._wide = {key: self._wide[key] for key in narrow}
        if narrow:
            wide = list(self._wide.values())
            torch._foreach_lerp_(wide, _like(wide, [theirs for _, theirs in narrow.values()]), 1 - weight)
            torch._foreach_copy_([own for own, _ in narrow.values()], wide)
        self._versions = {key: own._version for key, (own, _) in narrow.items()}

    def _note_versions(self) -> None:
        own = _parameters(self.model)
        self._versions = {key: own[key]._version for key in self._wide}

    def _pairs(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Each parameter by name, as the copy and as the model hold it."""
        self._walk()
        for key, own, theirs, name in self._slots:
            yield key, own[name], theirs[name]

    def _follow_buffers(self) -> None:
        same: list[tuple[Tensor, Tensor]] = []
        for own, theirs in self._modules:
            if theirs._buffers or own._buffers:
                same += _follow_buffers(own, theirs)
        _copy(same)

    def _walk(self) -> None:
        """Pair the modules of copy and model, and their parameters, unless they are the same as before."""
        if self._known == (modules := list(self._source.modules())):
            return
        self.check()
        own, theirs = _modules(self.model), _modules(self._source)
        for name, module in theirs.items():
            if name not in own and module._buffers:
                raise ModelError(
                    f"{self.rule.of}.{name}, which has buffers, was put into the model after "
                    f"followers[{self.name!r}] was made of it. Make it before the Joint."
                )
        self._modules = [(own[name], module) for name, module in theirs.items() if name in own]
        self._slots = []
        for key in _parameters(self._source):
            place, _, name = key.rpartition(".")
            self._slots.append((key, own[place]._parameters, theirs[place]._parameters, name))
        self._known = modules

    def _deep_copy(self) -> nn.Module:
        memo: dict[int, Any] = {}
        for module in self._source.modules():
            for value in (*vars(module).values(), *module._buffers.values()):
                if isinstance(value, Tensor) and not value.is_leaf:  # as of weight_norm: the next forward makes it anew
                    memo[id(value)] = value.detach().clone()
        try:
            return copy.deepcopy(self._source, memo)
        except Exception as error:
            raise ModelError(
                f"followers[{self.name!r}]: copy.deepcopy of models[{self.rule.of!r}] fails ({error}). Give a module "
                f"that is built like it: cograd.{type(self.rule).__name__}({self.rule.of!r}, copy=...)."
            ) from error

    def _check_copy(self, given: nn.Module, others: Mapping[str, nn.Module]) -> None:
        who = f"followers[{self.name!r}]: the module given as copy="
        if problems := list(_unlike(given, self._source)):
            raise ModelError(
                f"{who} is not like models[{self.rule.of!r}]: {report(problems, _MOST)} Build it as the model was."
            )
        places = {_place(p): key for key, p in _parameters(given).items() if p.numel()}
        for other, model in others.items():
            shared = next((places[_place(p)] for p in _parameters(model).values() if _place(p) in places), None)
            if shared or model is given:
                what = f"shares {shared} with {other!r}" if shared else f"is {other!r} itself"
                raise ModelError(f"{who} {what}, so it could not stay behind. Build a module of its own.")


def build_followers(followers: Any, models: dict[str, nn.Module]) -> dict[str, Follower]:
    """Name -> follower.

    Raises:
        ModelError: lists every entry that does not hold.
    """
    if followers is None:
        return {}
    if not isinstance(followers, Mapping):
        raise ModelError(
            f'followers maps names to EMA or Copy, as in {{"average": cograd.EMA("gen")}}; found {shown(followers)}.'
        )
    built: dict[str, Follower] = {}
    problems = []
    for name, rule in followers.items():
        if not isinstance(name, str) or not name:
            problems.append(f"A follower's name must be a non-empty string; found {shown(name)}.")
        elif name in models:
            problems.append(f"followers[{shown(name)}] has the name of a model. Choose another.")
        elif not isinstance(rule, EMA | Copy):
            problems.append(
                f"followers[{shown(name)}] must be cograd.EMA(...) or cograd.Copy(...); found {shown(rule)}."
            )
        elif rule.of not in models:
            problems.append(f"followers[{shown(name)}] follows {rule.of!r}. {unknown('models', rule.of, models)}")
        else:
            others = models | {other: follower.model for other, follower in built.items()}
            try:
                built[name] = Follower(name, rule, models[rule.of], others)
            except ModelError as error:
                problems.append(str(error))
    if problems:
        raise ModelError(report(problems))
    return built


def _unlike(copy: nn.Module, model: nn.Module) -> Iterator[str]:
    """In which parameters the two differ."""
    own, theirs = (
        {plain_name(key): tuple(p.shape) for key, p in m.named_parameters(remove_duplicate=False)}
        for m in (copy, model)
    )
    yield from (f"{key} is in the model, not in the copy." for key in theirs if key not in own)
    yield from (f"{key} is in the copy, not in the model." for key in own if key not in theirs)
    for key in theirs:
        if key in own and own[key] != theirs[key]:
            yield f"{key} is {theirs[key]} in the model, {own[key]} in the copy."
    tied, tied_theirs = (set(own) - set(_parameters(m)) for m in (copy, model))
    if own == theirs and tied != tied_theirs:
        yield f"{min(tied ^ tied_theirs)} is tied to another parameter in one of them only."


def _parameters(model: nn.Module) -> dict[str, Tensor]:
    return dict(named_parameters(model))


def _modules(model: nn.Module) -> dict[str, nn.Module]:
    """Under their plain names, which what ``torch.compile`` returns shares with what it was given."""
    return {plain_name(name): module for name, module in model.named_modules()}


def _place(p: Tensor) -> Any:
    """What two parameters have in common that share memory."""
    return p.untyped_storage().data_ptr() or id(p)


def _wider(dtype: torch.dtype) -> torch.dtype:
    return torch.complex64 if dtype.is_complex else torch.float32


def _like(own: Sequence[Tensor], theirs: Sequence[Tensor]) -> list[Tensor]:
    """``theirs`` in the formats and on the devices of ``own``."""
    return [t if (t.dtype, t.device) == (o.dtype, o.device) else t.to(o) for o, t in zip(own, theirs, strict=True)]


def _copy(pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
    if pairs:
        torch._foreach_copy_([own for own, _ in pairs], [theirs for _, theirs in pairs])


def _follow_buffers(own: nn.Module, theirs: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
    """Make the buffers of ``own`` those of ``theirs``, also if they are new, gone, or of another shape.

    Returns:
        Those whose values are yet to be copied.
    """
    if own._buffers.keys() != theirs._buffers.keys():
        own._buffers = {key: own._buffers.get(key) for key in theirs._buffers}
    if own._non_persistent_buffers_set != theirs._non_persistent_buffers_set:
        own._non_persistent_buffers_set = set(theirs._non_persistent_buffers_set)
    for key, b in theirs._buffers.items():
        held = own._buffers[key]
        if b is None:
            own._buffers[key] = None
        elif held is not None and _fits(held, b):
            yield held, b
        else:
            own._buffers[key] = b.detach().to(b.device if held is None else held.device, copy=True)


def _fits(held: Tensor, b: Tensor) -> bool:
    """Whether ``held`` can take in the values of ``b`` where it is."""
    if held.layout is not torch.strided or b.layout is not torch.strided:
        return False
    return (held.shape, held.dtype) == (b.shape, b.dtype) and 0 not in held.stride()
