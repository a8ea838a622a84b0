"""Records how a script puts its models together: parameters, copies, replacements, loaded values, flags."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from cograd.tracing import _events as events
from cograd.tracing._journal import Journal
from cograd.tracing._sites import here


class Setup:
    """What a script does to its models other than train them.

    Attributes:
        from_state: parameters whose values were loaded.
        follows: those of them whose values are those of another model of the script.
    """

    def __init__(self, journal: Journal) -> None:
        self.from_state: set[int] = set()
        self.follows: set[int] = set()
        self._journal = journal

    def made_parameter(self, parameter: Tensor) -> None:
        """A module was given a parameter."""
        self._journal.number(parameter, here())

    def replaced(self, module: nn.Module, name: str, new: nn.Module) -> None:
        """A submodule took the place of another."""
        old = module._modules.get(name)
        if old is not None and old is not new:
            gone = frozenset(self._journal.number(p) for p in old.parameters())
            came = frozenset(self._journal.number(p) for p in new.parameters())
            if gone and came and gone != came:
                self._journal.append(events.Replaced(self._journal.tick(), here(), name, gone, came))

    def flagged(self, parameters: Iterable[Tensor], on: bool) -> None:
        """``requires_grad`` was set."""
        self._journal.append(
            events.Flagged(self._journal.tick(), here(), frozenset(self._journal.number(p) for p in parameters), on)
        )

    def aliased(self, module: nn.Module) -> None:
        """A module with parameters has two names in one parent."""
        self._journal.append(
            events.Aliased(
                self._journal.tick(), here(), frozenset(self._journal.number(p) for p in module.parameters())
            )
        )

    def copied(self, source: nn.Module, result: nn.Module) -> None:
        """A module was copied."""
        site = here()
        pairs = tuple(
            (self._journal.number(a), self._journal.number(b, site))
            for a, b in zip(source.parameters(), result.parameters(), strict=False)
        )
        if pairs:
            self._journal.append(events.Copied(self._journal.tick(), site, pairs))

    def loaded(self, parameters: Iterable[Tensor], state: Mapping[str, Any]) -> None:
        """Values were loaded from a state dict."""
        loaded = {self._journal.number(p) for p in parameters}
        self.from_state |= loaded
        living = {p.data_ptr() for p, n in self._journal.known() if n not in loaded and _plain(p)}
        values = [t for t in state.values() if isinstance(t, Tensor) and _plain(t)]
        if any(t.data_ptr() in living for t in values):
            self.follows |= loaded


def _plain(tensor: Tensor) -> bool:
    return not nn.parameter.is_lazy(tensor) and tensor.layout is torch.strided and tensor.numel() > 0
