"""Layerwise: the Gramian layer by layer, from what arrives at each one, without a gradient per loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from cograd.gramian._cut import Cut
from cograd.gramian._engine import Engine, Measured
from cograd.gramian._layers import layers
from cograd.gramian._measure import measure
from cograd.gramian._scope import Component


@final
@dataclass(frozen=True, slots=True)
class Layerwise(Engine):
    r"""Carry the losses through the shared part side by side, and let each layer add its term.

    One batched pass computes what arrives at the output of each layer, :math:`c_k` for loss k. For
    a linear layer with inputs a, :math:`\langle g_k, g_l \rangle = \langle c_k, (a a^\top + 1) c_l \rangle`,
    so that the gradients of its weight need not be formed, and the weighted gradient comes from the
    weighted sum of the :math:`c_k`. Embeddings and biases have such a form too. Of every other
    parameter, and of a linear layer that sees more rows (batch x positions) than it is wide, the
    gradients are formed in the same pass. All of this is exact.

    The cheapest where layers are wide and batches are not. Through a graph with an autograd
    Function of Python or a compiled module, or one that cannot be batched for another reason, the
    losses go one by one.

    >>> trunk, heads = nn.Linear(8, 8), nn.Linear(8, 2)
    >>> y = heads(trunk(torch.randn(4, 8)).relu()).square().mean(0)
    >>> report = cograd.backward({"a": y[0], "b": y[1]}, weighting=cograd.weighting.PCGrad(), gramian=Layerwise())
    >>> report.gramian.matrix.shape
    torch.Size([2, 2])
    """

    def measure(self, cut: Cut, component: Component, keep: bool = False) -> Measured:
        """See :class:`Engine`."""
        return measure(cut, component, layers(cut, component), batched=True, keep=keep)
