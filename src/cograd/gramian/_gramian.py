"""Gramian: how long the losses' gradients are, and which of them disagree."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Gramian:
    """Inner products of the losses' gradients with respect to the parameters that they share.

    The losses are as the losses function returned them, before any weight. Two losses that share
    nothing, not even through others, have 0.

    Attributes:
        names: the K losses that share something.
        matrix: ``[K, K]`` float64.
        how: the engine that computed it, for each set of losses that share parameters.

    >>> gramian = Gramian(("a", "b"), torch.tensor([[4.0, -3.0], [-3.0, 9.0]]), ("rows",))
    >>> print(gramian)
    norms: a 2, b 3
    cosines: a b -0.50
    in conflict: a b
    >>> gramian.norms
    {'a': 2.0, 'b': 3.0}
    >>> gramian.cosines
    {('a', 'b'): -0.5}
    >>> gramian.conflicts
    (('a', 'b'),)
    """

    names: tuple[str, ...]
    matrix: Tensor
    how: tuple[str, ...]

    @property
    def norms(self) -> dict[str, float]:
        """Name -> 2-norm of the gradient of the loss."""
        return dict(zip(self.names, self.matrix.diagonal().clamp_min(0).sqrt().tolist(), strict=True))

    @property
    def cosines(self) -> dict[tuple[str, str], float]:
        """Pair -> cosine of the angle between their gradients; NaN where one of them is zero."""
        lengths = self.matrix.diagonal().clamp_min(0).sqrt()
        cosines = (self.matrix / lengths / lengths[:, None]).tolist()
        places = dict(enumerate(self.names))
        return {(places[i], places[j]): cosines[i][j] for i, j in itertools.combinations(places, 2)}

    @property
    def conflicts(self) -> tuple[tuple[str, str], ...]:
        """The pairs whose gradients point against each other: a negative inner product."""
        return tuple(pair for pair, cosine in self.cosines.items() if cosine < 0)

    def __str__(self) -> str:
        norms = ", ".join(f"{name} {norm:.3g}" for name, norm in self.norms.items())
        cosines = ", ".join(f"{a} {b} {cosine:.2f}" for (a, b), cosine in self.cosines.items())
        conflicts = ", ".join(f"{a} {b}" for a, b in self.conflicts)
        return f"norms: {norms}\ncosines: {cosines}\nin conflict: {conflicts or 'none'}"


def assembled(parts: list[tuple[tuple[str, ...], Tensor, str]]) -> Gramian | None:
    """One Gramian of the Gramians of sets of losses that share nothing with each other."""
    if not parts:
        return None
    if len(parts) == 1:
        ((names, matrix, how),) = parts
        return Gramian(names, matrix, (how,))
    names = tuple(name for own, _, _ in parts for name in own)
    return Gramian(names, torch.block_diag(*(matrix for _, matrix, _ in parts)), tuple(how for _, _, how in parts))
