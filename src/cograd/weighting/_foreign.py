"""Rules from elsewhere: any function from a Gramian to weights, any aggregator of a Jacobian."""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from cograd._arity import misfit
from cograd.errors import WeightingError, quoted, shown
from cograd.weighting._contract import Seen, State, Weighting
from cograd.weighting._jacobian import JacobianWeighting

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

    def __post_init__(self) -> None:
        if problem := misfit("FromGramian(function)", self.function, "gramian"):
            raise WeightingError(problem)

    def weigh(self, seen: Seen, state: State) -> tuple[Tensor, State]:
        """See :class:`Weighting`."""
        if seen.gramian is None:
            raise TypeError("this rule needs the Gramian")
        here = torch.tensor(seen.present)
        gramian = seen.gramian.double()[here][:, here]
        try:
            found = self.function(gramian)
        except Exception as error:
            error.add_note(f"That is from {shown(self.function)}, called with a float64 Gramian {list(gramian.shape)}.")
            raise
        if not isinstance(found, Tensor) or found.shape != gramian.shape[:1]:
            shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise WeightingError(
                f"{shown(self.function)} must return one weight per loss, [{len(gramian)}]; found {shape}."
            )
        if not found.isfinite().all():
            raise WeightingError(f"{shown(self.function)} must return finite weights; found {found} for {gramian}.")
        weights = gramian.new_zeros(len(here))
        weights[here] = found.detach().to(weights)
        return weights, state


@final
@dataclass(frozen=True, slots=True)
class FromJacobian(JacobianWeighting):
    r"""Use any function from the Jacobian :math:`[K, P]` to a direction :math:`[P]`, such as an aggregator of TorchJD.

    For those that are no weighted sums: element-wise means, votes on signs. A rule that looks at more
    than the gradients, or remembers, is a :class:`JacobianWeighting` of your own.

    Args:
        aggregator: takes the gradients of the present losses on the parameters that they share,
            one row each, and returns the direction to follow.

    >>> FromJacobian(lambda jacobian: jacobian.median(0).values).needs
    frozenset({'jacobian'})
    """

    aggregator: Callable[[Tensor], Tensor]

    def __post_init__(self) -> None:
        if problem := misfit("FromJacobian(aggregator)", self.aggregator, "jacobian"):
            raise WeightingError(problem)

    def direction(self, seen: Seen, state: State) -> tuple[Tensor, State]:
        """See :class:`JacobianWeighting`."""
        if seen.jacobian is None:
            raise TypeError("this rule needs the Jacobian")
        return self.aggregator(seen.jacobian), state


def as_rule(rule: Any) -> Weighting:
    """``rule`` itself, or a function from a Gramian to weights as a rule.

    Raises:
        WeightingError: it is neither.
    """
    if isinstance(rule, Weighting):
        _check_needs(rule)
        return rule
    if callable(rule) and not isinstance(rule, type):
        return FromGramian(rule)
    named = {kind.__name__.lower(): kind for kind in Weighting.__subclasses__()}
    kind = named.get(rule.lower()) if isinstance(rule, str) else rule
    if isinstance(kind, type) and issubclass(kind, Weighting):
        found = f"{shown(rule)}. Make a rule of it: cograd.weighting.{kind.__name__}()."
    else:
        found = f"{shown(rule)}."
    raise WeightingError(
        "A weighting is a rule such as cograd.weighting.FirstValue(), or a function from a Gramian [K, K] to weights "
        f"[K]; found {found}"
    )


def _check_needs(rule: Weighting) -> None:
    name = type(rule).__name__
    if not isinstance(rule.needs, Set):
        raise WeightingError(
            f"{name}: needs is a set of names, as in needs = frozenset({{'losses'}}); found {shown(rule.needs)}."
        )
    if strange := sorted(map(str, rule.needs - NEEDS)):
        raise WeightingError(f"{name} needs {quoted(strange)}; a rule can ask for {quoted(sorted(NEEDS))}.")
    if isinstance(rule, JacobianWeighting):
        if "jacobian" not in rule.needs:
            raise WeightingError(f"{name} gives a direction, so it needs 'jacobian'; found needs {quoted(rule.needs)}.")
    elif "jacobian" in rule.needs:
        raise WeightingError(
            f"{name} needs 'jacobian', and gives weights. A rule that looks at the gradients themselves is a subclass "
            "of cograd.weighting.JacobianWeighting, with direction(seen, state) instead of weigh(seen, state)."
        )
