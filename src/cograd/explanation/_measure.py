"""Gradients of losses with respect to models: how long, and at which angles."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from cograd._graph import walk
from cograd.errors import PassError

Rows = Mapping[str, Mapping[int, Tensor]]  # loss -> id(parameter) -> gradient


def gradients(losses: Mapping[str, Tensor], parameters: Sequence[Tensor]) -> dict[str, dict[int, Tensor]]:
    """The gradient of each loss for each of ``parameters`` that it reaches. The graph stays as it is."""
    graphs = {name: loss for name, loss in losses.items() if loss.requires_grad}
    group_of = {id(p): i for i, p in enumerate(parameters)}
    found = walk(list(graphs.values()), group_of)
    if any(type(node).__name__ == "CheckpointFunctionBackward" for node in found.custom()):
        raise PassError(
            "The graph holds a reentrant activation checkpoint, which hides the parameters inside it. "
            "Use torch.utils.checkpoint.checkpoint(..., use_reentrant=False)."
        )
    rows: dict[str, dict[int, Tensor]] = {name: {} for name in losses}
    for k, (name, loss) in enumerate(graphs.items()):
        reach = found.reach(k)
        inputs = [p for i, p in enumerate(parameters) if reach >> i & 1]
        if inputs:  # a custom Function may still return None for some of them
            got = torch.autograd.grad(loss, inputs, retain_graph=True, allow_unused=True)
            rows[name] = {id(p): g for p, g in zip(inputs, got, strict=True) if g is not None}
    return rows


@torch.no_grad()
def angles(rows: Rows, parameters: Sequence[Tensor]) -> tuple[dict[str, float], dict[tuple[str, str], float]]:
    """Of the losses that reach ``parameters``: the norm of each gradient, and the cosine of each ordered pair."""
    here = [name for name in rows if any(id(p) in rows[name] for p in parameters)]
    total = torch.zeros(len(here), len(here), dtype=torch.float64)
    for p in parameters:
        own = [(k, _flat(rows[name][id(p)])) for k, name in enumerate(here) if id(p) in rows[name]]
        if own:
            at = torch.tensor([k for k, _ in own])
            stacked = torch.stack([g for _, g in own])
            total[at[:, None], at] += (stacked @ stacked.T).cpu()
    norms = dict(zip(here, total.diagonal().clamp_min(0).sqrt().tolist(), strict=True))
    inner = total.tolist()
    cosines = {
        (a, b): inner[i][j] / (norms[a] * norms[b]) if norms[a] * norms[b] else math.nan
        for i, a in enumerate(here)
        for j, b in enumerate(here)
        if i != j
    }
    return norms, cosines


def _flat(g: Tensor) -> Tensor:
    g = g.detach()
    if g.layout is not torch.strided:
        g = g.to_dense()
    if g.is_complex():
        g = torch.view_as_real(g)
    return g.reshape(-1).double()
