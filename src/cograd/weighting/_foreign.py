"""Rules from elsewhere: any function from a Gramian to weights, any aggregator of a Jacobian."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from cograd.errors import WeightingError, quoted
from cograd.weighting._contract import Seen, State, Weighting

NEEDS = {"losses", "gramian", "abs", "jacobian", "after"}


@final
@dataclass(frozen=True, slots=True)
class FromGramian(Weighting):
    r"""Use any function :math:`G \mapsto w` as a rule, such as a weighting of TorchJD.

    Wherever a rule is expected, the bare function does: it is wrapped in this. Its weights are used
    as they are. State that it keeps is its own, and is not saved with a ``Joint``.

    Args:
        function: takes the Gramian ``[K, K]`` of the present losses, float64 on the CPU, and returns
            K weights.

    >>> FromGramian(lambda gramian: 1 / gramian.diagonal().sqrt())(gramian=torch.diag(torch.tensor([4.0, 1.0])))
    tensor([0.5000, 1.0000], dtype=torch.float64)
    """

    function: Callable[[Tensor], Tensor]
    needs: ClassVar[frozenset[str]] = frozenset({"gramian"})

    def weigh(self, seen: Seen, state: State) -> tuple[Tensor, State]:
        """See :class:`Weighting`."""
        if seen.gramian is None:
            raise TypeError("this rule needs the Gramian")
        here = torch.tensor(seen.present)
        gramian = seen.gramian.double()[here][:, here]
        found = self.function(gramian)
        if not isinstance(found, Tensor) or found.shape != gramian.shape[:1]:
            shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise WeightingError(f"{self.function!r} must return one weight per loss, [{len(gramian)}]; found {shape}.")
        if not found.isfinite().all():
            raise WeightingError(f"{self.function!r} must return finite weights; found {found} for {gramian}.")
        weights = gramian.new_zeros(len(here))
        weights[here] = found.detach().to(weights)
        return weights, state


@final
@dataclass(frozen=True, slots=True)
class FromJacobian(Weighting):
    r"""Use any function from the Jacobian :math:`[K, P]` to a direction :math:`[P]`, such as an aggregator of TorchJD.

    For those that are no weighted sums: element-wise means, votes on signs. Needs every gradient at
    once, in one piece, so it is the most costly kind of rule. The weights that are reported are
    ones, since there are none.

    Args:
        aggregator: takes the gradients of the present losses on the parameters that they share,
            one row each, and returns the direction to follow.

    >>> FromJacobian(lambda jacobian: jacobian.median(0).values).needs
    frozenset({'jacobian'})
    """

    aggregator: Callable[[Tensor], Tensor]
    needs: ClassVar[frozenset[str]] = frozenset({"jacobian"})

    def weigh(self, seen: Seen, state: State) -> tuple[Tensor, State]:
        """See :class:`Weighting`."""
        return torch.tensor(seen.present, dtype=torch.float64), state

    def direction(self, jacobian: Tensor) -> Tensor:
        """``[P]`` from ``jacobian`` ``[K, P]``."""
        found = self.aggregator(jacobian)
        if not isinstance(found, Tensor) or found.shape != jacobian.shape[1:]:
            shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise WeightingError(
                f"{self.aggregator!r} must return a direction of {jacobian.shape[1]} elements; found {shape}."
            )
        if not found.isfinite().all():
            raise WeightingError(
                f"{self.aggregator!r} returned a direction with NaN or infinity. Are the gradients finite?"
            )
        return found.detach()


def as_rule(rule: Any) -> Weighting:
    """``rule`` itself, or a function from a Gramian to weights as a rule.

    Raises:
        WeightingError: it is neither.
    """
    if isinstance(rule, Weighting):
        if strange := rule.needs - NEEDS:
            raise WeightingError(
                f"{type(rule).__name__} needs {quoted(sorted(strange))}; a rule can ask for {quoted(sorted(NEEDS))}."
            )
        return rule
    if callable(rule) and not isinstance(rule, type):
        return FromGramian(rule)
    if isinstance(rule, type) and issubclass(rule, Weighting):
        found = f"the class {rule.__name__}. Make a rule of it: {rule.__name__}()."
    else:
        found = f"{rule!r}."
    raise WeightingError(
        "A weighting is a rule such as cograd.weighting.FirstValue(), or a function from a Gramian [K, K] to weights "
        f"[K]; found {found}"
    )
