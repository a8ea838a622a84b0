"""Automatic: the cheapest exact engine for each set of losses that share parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from cograd.gramian._cut import Cut
from cograd.gramian._engine import Engine, Measured
from cograd.gramian._layerwise import Layerwise, batchable, plan
from cograd.gramian._rows import Rows
from cograd.gramian._scope import Component


@final
@dataclass(frozen=True, slots=True)
class Automatic(Engine):
    """What ``gramian=None`` means: layer by layer where that saves work, else :class:`Rows`."""

    def measure(self, cut: Cut, component: Component, keep: bool = False) -> Measured:
        """See :class:`Engine`."""
        if batchable(cut, component):
            light = sum(layer.leaf.numel() for layer in plan(cut, component))
            if 2 * light >= sum(leaf.numel() for leaf in component.leaves):
                return Layerwise().measure(cut, component, keep)
        return Rows().measure(cut, component, keep)
