"""FAMO: all losses fall at the same rate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, final

import torch
from torch import Tensor

from cograd.errors import WeightingError
from cograd.weighting._contract import (
    Seen,
    State,
    Weighting,
    check_choice,
    check_factors,
    check_number,
    constant,
    observed,
    recalled,
    softmax,
    spread,
    stored,
    total,
)


@final
@dataclass(frozen=True, slots=True)
class FAMO(Weighting):
    r"""Fast adaptive multitask optimisation: :math:`w_i = c\,z_i / (L_i - b_i)` with :math:`z = \mathrm{softmax}(\xi)`.

    The constant :math:`c = K / \sum_i z_i / (L_i - b_i)` makes the weights of the K present losses add
    up to K. After the update, the same batch's losses show how far each one fell,
    :math:`\delta_i = \log(L_i - b_i) - \log(L_i' - b_i)`, and the logits take one Adam step against
    :math:`(\partial z / \partial \xi)^\top \delta`: what fell more than the others weighs less next time.

    It costs one backward pass, and one more forward pass for the losses after the update. With
    logits at 0 the direction is that of :class:`Log`.

    A loss below its bound has no logarithm: all weights are NaN, which the finite check of a step
    reports before any parameter moves. One at its bound counts as :math:`10^{-8}` above it.

    Args:
        lr: learning rate of the logits, at least 0.
        gamma: weight decay of the logits, at least 0; it pulls them together.
        bounds: loss name -> b, a number that the loss never goes below; 0 without an entry.
        scale: ``"sum"``: the weights add up to K; ``"paper"``: to 1.

    Raises:
        WeightingError: a step was weighed although :meth:`after` has not seen the one before.

    State:
        ``logit``, ``moment``, ``square``: name -> :math:`\xi` and its Adam moments; ``count``: name ->
        updates; ``before``: name -> :math:`\log(L - b)` of the step that waits for its losses after.

    >>> rule = FAMO()
    >>> weights, state = rule.weigh(Seen(("a", "b"), torch.tensor([2.0, 0.5]), (True, True)), {})
    >>> state = rule.after(Seen(("a", "b"), torch.tensor([1.0, 0.5]), (True, True)), state)
    >>> weights, state["logit"]
    (tensor([0.4000, 1.6000]), {'a': tensor(-0.0250), 'b': tensor(0.0250)})

    References:
        Liu, Feng, Stone, Liu, FAMO: Fast Adaptive Multitask Optimization, NeurIPS 2023,
        https://arxiv.org/abs/2306.03792. Weights, logits and defaults agree with ``famo.py`` of
        Cranial-XIX/FAMO, and with ``FAMO`` of TorchJD 0.18 at the same gamma. Deviation: the factor K.
    """

    lr: float = 0.025
    gamma: float = 0.01
    bounds: Mapping[str, float] = field(default_factory=dict)
    scale: str = "sum"
    needs: ClassVar[frozenset[str]] = frozenset({"losses", "after"})
    remembers: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_number(self, "lr")
        check_number(self, "gamma")
        check_factors(self, self.bounds)
        check_choice(self, "scale", ("sum", "paper"))

    @property
    def mentions(self) -> Iterable[str]:
        """See :class:`Weighting`."""
        return self.bounds

    def weigh(self, seen: Seen, state: State) -> tuple[Tensor, State]:
        """See :class:`Weighting`."""
        if state.get("before"):
            raise WeightingError(
                "FAMO: the losses after the last update are missing. Evaluate the same batch again after each "
                "optimizer step, and pass the losses to after() before weigh() is called again."
            )
        names, losses = observed(seen)
        logs = self._logs(names, losses)
        raw = softmax(recalled(state.get("logit", {}), names, losses)) * (logs.min() - logs).exp() if names else logs
        weights = raw / total(raw)
        return spread(weights * len(names) if self.scale == "sum" else weights, seen), {
            **state,
            "before": dict(zip(names, logs.unbind(), strict=True)),
        }

    def after(self, seen: Seen, state: State) -> State:
        """See :class:`Weighting`."""
        here, losses = observed(seen)
        names = [name for name in here if name in state["before"]]
        if not names:
            return {**state, "before": {}}
        losses = recalled(dict(zip(here, losses.unbind(), strict=True)), names, losses)
        logits, moments, squares, counts = (state.get(key, {}) for key in ("logit", "moment", "square", "count"))
        logit = recalled(logits, names, losses)
        fell = recalled(state["before"], names, losses) - self._logs(names, losses)
        shares = softmax(logit)
        slope = shares * (fell - total(shares * fell)) + self.gamma * logit
        count = [counts.get(name, 0) + 1 for name in names]
        moment = 0.9 * recalled(moments, names, losses) + 0.1 * slope
        square = 0.999 * recalled(squares, names, losses) + 0.001 * slope**2
        mean = moment / constant([1 - 0.9**n for n in count], losses)
        size = (square / constant([1 - 0.999**n for n in count], losses)).sqrt()
        return {
            "logit": stored(logits, names, (logit - self.lr * mean / (size + 1e-8)).unbind()),
            "moment": stored(moments, names, moment.unbind()),
            "square": stored(squares, names, square.unbind()),
            "count": stored(counts, names, count),
            "before": {},
        }

    def _logs(self, names: list[str], losses: Tensor) -> Tensor:
        above = losses - constant([self.bounds.get(name, 0.0) for name in names], losses)
        return torch.where(above < 0, torch.nan, above + 1e-8).log()
