"""Accumulation: gather the gradients of several micro-batches into one update, counted per model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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


@dataclass(slots=True)
class Held:
    """What one model has gathered in one phase since its last update.

    Attributes:
        turns: how often it was its turn.
        count: how often it then got a gradient. Their sum is divided by this.
        sums: parameter -> sum of its gradients.
    """

    turns: int = 0
    count: int = 0
    sums: dict[Tensor, Tensor] = field(default_factory=dict)

    @torch.no_grad()
    def add(self, parameters: Iterable[Tensor]) -> None:
        """Take in the gradients of one micro-batch, and leave none behind."""
        fresh = {p: p.grad for p in parameters if p.grad is not None}
        old = [p for p in fresh if p in self.sums]
        if any([fresh[p].is_sparse or self.sums[p].is_sparse for p in old]):
            self.sums.update({p: self.sums[p] + fresh[p] for p in old})
        elif old:
            torch._foreach_add_([self.sums[p] for p in old], [fresh[p] for p in old])
        self.sums.update({p: g for p, g in fresh.items() if p not in self.sums})
        self.count += 1
        for p in fresh:
            p.grad = None

    @torch.no_grad()
    def give(self, parameters: Iterable[Tensor], here: bool) -> None:
        """Make ``.grad`` the mean over the micro-batches. What is held stays as it is.

        Args:
            parameters: of the model.
            here: whether ``.grad`` holds the gradients of one more micro-batch.
        """
        if not self.count:
            return
        count = self.count + here
        for p in parameters:
            total = self.sums.get(p)
            if total is not None:
                p.grad = total / count if p.grad is None else p.grad.add_(total).div_(count)
            elif p.grad is not None:
                p.grad.div_(count)


def added(earlier: Tensor | None, fresh: Tensor | None) -> Tensor | None:
    """Their sum as a tensor of its own, as two backward calls leave it in ``.grad``; what there is of them."""
    if earlier is None or fresh is None:
        return fresh if earlier is None else earlier
    return fresh + earlier if earlier.is_sparse and not fresh.is_sparse else earlier + fresh
