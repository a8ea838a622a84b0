"""Engines: the inner products of the losses' gradients, and the weighted gradient that follows."""

from cograd.gramian._at import At as At
from cograd.gramian._engine import Engine as Engine
from cograd.gramian._gramian import Gramian as Gramian
from cograd.gramian._layerwise import Layerwise as Layerwise
from cograd.gramian._rows import Rows as Rows

__all__ = ["At", "Engine", "Gramian", "Layerwise", "Rows"]
