"""Keep the gradients of losses with a count apart, where a model gathers them over several micro-batches.

The mean of a loss over all samples of a window is known only when the window closes, and each loss has a
mean of its own. So what a counted loss gives to a model that gathers must not be added to what another
loss gives to it: it comes from a pass of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from cograd._accumulation import Fresh
from cograd._plan import Pass, Plan
from cograd.errors import LossError

JOINT = ""  # the account of a rule: it makes one gradient of all losses


@dataclass(slots=True)
class Apart:
    """The gradients of one micro-batch that are to be weighed by a count.

    Attributes:
        fresh: account -> its count, and parameter -> gradient.
        plain: parameter -> gradient of the losses without a count.
    """

    fresh: dict[str, tuple[float, dict[Tensor, Tensor]]] = field(default_factory=dict)
    plain: dict[Tensor, Tensor] = field(default_factory=dict)

    def take(self, parameters: Iterable[Tensor], account: str | None) -> None:
        """Move ``.grad`` of ``parameters`` to an account; to the plain ones if it is None."""
        into = self.plain if account is None else self.fresh[account][1]
        for p in parameters:
            if p.grad is not None:
                into[p], p.grad = p.grad, None

    def show(self) -> None:
        """Put a gradient of each parameter into ``.grad``, for those who ask whether there is any."""
        for gradients in (*(own for _, own in self.fresh.values()), self.plain):
            for p, g in gradients.items():
                p.grad = g

    def hide(self) -> None:
        """Leave only the plain gradients in ``.grad``."""
        for p in self.gradients():
            p.grad = self.plain.get(p)

    def gradients(self) -> dict[Tensor, list[Tensor]]:
        """Parameter -> the gradients that are not in its ``.grad``."""
        found: dict[Tensor, list[Tensor]] = {}
        for _, gradients in self.fresh.values():
            for p, g in gradients.items():
                found.setdefault(p, []).append(g)
        return found

    def of(self, model: str, trains: Mapping[str, Sequence[str]]) -> Fresh:
        """The accounts of the losses that may train ``model``."""
        return {name: own for name, own in self.fresh.items() if model in trains.get(name, (model,))}


@dataclass(slots=True)
class _Group:
    """Losses that can be differentiated together."""

    losses: set[str] = field(default_factory=set)
    owner: dict[str, str | None] = field(default_factory=dict)  # model that gathers -> whose account


def separated(
    plan: Plan, counted: Collection[str], gathering: Collection[str], trains: Mapping[str, Sequence[str]]
) -> tuple[Plan, dict[int, dict[str, str | None]]]:
    """``plan`` with as few more passes as keep losses apart.

    Args:
        plan: the passes without that.
        counted: the losses with a count.
        gathering: the models in which they must be kept apart.
        trains: loss -> the models that it trains; a loss without an entry may train all.

    Returns:
        The plan, and after which of its passes (by position) which model's ``.grad`` belongs to whose account.
    """
    groups: list[_Group] = []
    names = dict.fromkeys(name for p in plan.passes for name in p.losses)
    for name in sorted(names, key=lambda name: name in counted):  # those without a count share a group
        account = name if name in counted else None
        may = [model for model in gathering if model in trains.get(name, gathering)]
        mine = [model for p in plan.passes if name in p.losses for model in p.models if model in may]
        fits = (group for group in groups if all(group.owner.get(model, account) == account for model in mine))
        if (group := next(fits, None)) is None:
            groups.append(group := _Group())
        group.losses.add(name)
        group.owner |= dict.fromkeys(mine, account)
    passes: list[Pass] = []
    ends = {}
    for group in groups:
        for p in plan.passes:
            if own := tuple(name for name in p.losses if name in group.losses):
                passes.append(replace(p, losses=own, retain=True, ends=tuple(n for n in p.ends if n in own)))
        ends[len(passes) - 1] = group.owner
    if len(passes) == len(plan.passes):
        return plan, ends
    passes[-1] = replace(passes[-1], retain=False)
    return replace(plan, passes=tuple(passes), why=f"{plan.why}; losses with a count are gathered apart"), ends


def one_count(losses: Collection[str], counts: Mapping[str, float], rule: str | None) -> float:
    """The count of a micro-batch under a rule that makes one gradient of all losses.

    Raises:
        LossError: the losses do not all have the same.
    """
    found = {name: counts.get(name) for name in losses}
    if len(set(found.values())) == 1 and (one := next(iter(found.values()))) is not None:
        return one
    told = ", ".join(f"{name} {'none' if n is None else f'{n:g}'}" for name, n in found.items())
    raise LossError(
        f"{rule} makes one gradient of all losses of a micro-batch, and accumulate weighs it by one count; found the "
        f"counts {told}. Give all losses the same count or none, leave accumulate out, or take a rule that looks at "
        "losses only."
    )
