"""Rules that are no weighted sum: all gradients -> one direction."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from cograd.weighting._contract import Seen, State, Weighting


class JacobianWeighting(Weighting):
    """A rule that turns the gradients themselves into a direction: a vote on signs, a median, a projection.

    Subclass it and give :meth:`direction`. It is asked once for each set of losses that share
    parameters, and what it returns takes the place of their gradient; what only one loss trains keeps
    its plain gradient. The weights that are reported are ones, since there are none. Needs every
    gradient at once, in one piece, so it is the most costly kind of rule.

    >>> class Agreement(JacobianWeighting):
    ...     def direction(self, seen, state):
    ...         signs = seen.jacobian.sign().sum(0)
    ...         return seen.jacobian.sum(0) * (signs.abs() == len(seen.names)), state
    >>> x = nn.Parameter(torch.tensor([1.0, 2.0]))
    >>> report = cograd.backward({"a": x.sum(), "b": x[0] - x[1]}, weighting=Agreement())
    >>> x.grad
    tensor([2., 0.])
    """

    __slots__ = ()
    needs: ClassVar[frozenset[str]] = frozenset({"jacobian"})

    @abstractmethod
    def direction(self, seen: Seen, state: State) -> tuple[Tensor, State]:
        """The direction ``[P]`` to follow, scaled as the sum of the gradients is, and the next state.

        Args:
            seen: has ``jacobian`` ``[K, P]``, the gradients of the K losses ``names`` on all that they
                share, in the order of the parameters in the graph; the losses themselves if ``needs``
                holds ``"losses"`` too.
            state: is not changed.
        """

    def weigh(self, seen: Seen, state: State) -> tuple[Tensor, State]:
        """Ones, for the present losses."""
        return torch.tensor(seen.present, dtype=torch.float64), state
