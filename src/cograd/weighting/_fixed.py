"""Fixed: the weights that the user chose."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, final

import torch
from torch import Tensor

from cograd.weighting._contract import Seen, State, Weighting, check_factors


@final
@dataclass(frozen=True, slots=True)
class Fixed(Weighting):
    r"""The weighted sum :math:`\sum_i w_i L_i` with constant :math:`w_i`.

    A well tuned weighted sum is the baseline that specialised methods rarely beat; start here.

    Args:
        weights: loss name -> factor, any finite number; 1 for a loss without an entry. A loss of
            weight 0 is dropped.

    >>> rule = Fixed({"loss0": 0.7})
    >>> rule(torch.tensor([3.0, 5.0]))
    tensor([0.7000, 1.0000], dtype=torch.float64)

    References:
        Kurin et al., In Defense of the Unitary Scalarization for Deep Multi-Task Learning,
        NeurIPS 2022, https://arxiv.org/abs/2201.04122.
    """

    weights: Mapping[str, float] = field(default_factory=dict)
    needs: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        check_factors(self, self.weights)

    @property
    def mentions(self) -> Iterable[str]:
        """See :class:`Weighting`."""
        return self.weights

    def weigh(self, seen: Seen, state: State) -> tuple[Tensor, State]:
        """See :class:`Weighting`."""
        return torch.tensor([self.weights.get(name, 1.0) for name in seen.names], dtype=torch.float64), state
