"""Accumulation: gather the gradients of several micro-batches into one update, counted per model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from cograd.errors import OptimizerError, report, shown, unknown


def parse_counts(accumulate: Any, models: Sequence[str]) -> dict[str, int]:
    """Model -> micro-batches per update.

    Raises:
        OptimizerError: lists every entry that does not hold.
    """
    counts = dict(accumulate) if isinstance(accumulate, Mapping) else dict.fromkeys(models, accumulate)
    problems = [
        f"accumulate[{shown(name)}] names no model. {unknown('models', name, models)}"
        for name in counts
        if name not in models
    ]
    for name, n in counts.items():
        if not isinstance(n, int) or isinstance(n, bool) or n < 1:
            what = f"accumulate[{shown(name)}]" if isinstance(accumulate, Mapping) else "accumulate"
            problems.append(f"{what} must be a whole number of at least 1; found {shown(n)}.")
    if problems:
        raise OptimizerError(report(list(dict.fromkeys(problems))))
    return dict.fromkeys(models, 1) | counts


Fresh = Mapping[str, tuple[float, Mapping[Tensor, Tensor]]]  # account -> count, and parameter -> gradient


@dataclass(slots=True)
class Account:
    """What one loss with a count has given to one model.

    Counts are relative to the first one. So equal counts weigh exactly 1, and their mean is bit for bit
    that of micro-batches without a count.

    Attributes:
        first: the first count.
        total: the sum of all counts.
        sums: parameter -> sum of count / first x gradient.
    """

    first: float
    total: float = 0.0
    sums: dict[Tensor, Tensor] = field(default_factory=dict)


@dataclass(slots=True)
class Held:
    """What one model has gathered in one phase since its last update.

    Attributes:
        turns: how often it was its turn.
        count: how often it then got a gradient. The sums are divided by this.
        sums: parameter -> sum of its gradients, of losses without a count.
        accounts: loss with a count -> what it has given, which is divided by the total of its counts.
    """

    turns: int = 0
    count: int = 0
    sums: dict[Tensor, Tensor] = field(default_factory=dict)
    accounts: dict[str, Account] = field(default_factory=dict)

    @torch.no_grad()
    def add(self, parameters: Sequence[Tensor], fresh: Fresh, here: bool) -> None:
        """Take in the gradients of one micro-batch, and leave none behind.

        Args:
            parameters: of the model, with gradients of losses without a count.
            fresh: the gradients of losses with one.
            here: whether there is any gradient.
        """
        _gather(self.sums, {p: p.grad for p in parameters if p.grad is not None})
        for name, (count, gradients) in fresh.items():
            account = self.accounts.setdefault(name, Account(count))
            own = {p: gradients[p] for p in parameters if p in gradients}
            _gather(account.sums, _times(own, count / account.first))
            account.total += count
        self.count += here
        for p in parameters:
            p.grad = None

    @torch.no_grad()
    def give(self, parameters: Sequence[Tensor], fresh: Fresh, here: bool) -> None:
        """Make ``.grad`` the mean over the micro-batches. What is held stays as it is.

        Args:
            parameters: of the model.
            fresh: the gradients of losses with a count in one more micro-batch.
            here: whether there is one more, with those of losses without a count in ``.grad``.
        """
        if self.count:
            count = self.count + here
            for p in parameters:
                total = self.sums.get(p)
                if total is not None and p.grad is not None:
                    p.grad = (_sum(total, p.grad) if p.grad.is_sparse else p.grad.add_(total)).div_(count)
                elif total is not None:
                    p.grad = total / count
                elif p.grad is not None:
                    p.grad.div_(count)
        for name in dict.fromkeys([*self.accounts, *fresh]):
            samples, gradients = fresh.get(name, (0.0, {}))
            account = self.accounts.get(name) or Account(samples)
            own = _times({p: gradients[p] for p in parameters if p in gradients}, samples / account.first)
            divisor = (account.total + samples) / account.first
            for p in parameters:
                if (total := added(account.sums.get(p), own.get(p))) is not None:
                    p.grad = added(p.grad, total if divisor == 1.0 else total / divisor)


def _gather(sums: dict[Tensor, Tensor], fresh: dict[Tensor, Tensor]) -> None:
    old = [p for p in fresh if p in sums]
    if any([fresh[p].is_sparse or sums[p].is_sparse for p in old]):
        sums.update({p: _sum(sums[p], fresh[p]) for p in old})
    elif old:
        torch._foreach_add_([sums[p] for p in old], [fresh[p] for p in old])
    sums.update({p: g for p, g in fresh.items() if p not in sums})


def _times(gradients: dict[Tensor, Tensor], factor: float) -> dict[Tensor, Tensor]:
    return gradients if factor == 1.0 else {p: g * factor for p, g in gradients.items()}


def added(earlier: Tensor | None, fresh: Tensor | None) -> Tensor | None:
    """Their sum as a tensor of its own, as two backward calls leave it in ``.grad``; what there is of them."""
    if earlier is None or fresh is None:
        return fresh if earlier is None else earlier
    return _sum(earlier, fresh)


def _sum(earlier: Tensor, fresh: Tensor) -> Tensor:
    """A sparse gradient can be added to a dense one, and not the other way around."""
    return fresh + earlier if earlier.is_sparse and not fresh.is_sparse else earlier + fresh
