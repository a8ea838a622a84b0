"""Automatic: the cheapest exact way for each set of losses that share parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from cograd.gramian._cut import Cut
from cograd.gramian._engine import Engine, Measured
from cograd.gramian._layers import layers
from cograd.gramian._measure import measure
from cograd.gramian._scope import Component

FEW = 2  # losses that go one by one faster than side by side, which costs more per operation


@final
@dataclass(frozen=True, slots=True)
class Automatic(Engine):
    """What ``gramian=None`` means: form no gradient that need not be, and batch where that pays.

    It pays for several losses, and where most parameters are in layers whose gradients are not
    formed: forming them is no faster side by side.
    """

    def measure(self, cut: Cut, component: Component, keep: bool = False) -> Measured:
        """See :class:`Engine`."""
        light = layers(cut, component)
        saved = sum(leaf.numel() for layer in light for leaf in layer.leaves)
        batched = len(component.losses) > FEW and 2 * saved >= sum(leaf.numel() for leaf in component.leaves)
        return measure(cut, component, light, batched, keep)
