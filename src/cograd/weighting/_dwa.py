"""DWA: more weight to the losses that fall slowly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from cograd.errors import WeightingError, shown
from cograd.weighting._contract import (
    Seen,
    State,
    Weighting,
    check_number,
    observed,
    ratio,
    recalled,
    softmax,
    spread,
    stored,
)


@final
@dataclass(frozen=True, slots=True)
class DWA(Weighting):
    r"""Dynamic weight average: :math:`w = K\,\mathrm{softmax}(r / T)`, :math:`r_i = \bar L_i(t-1) / \bar L_i(t-2)`.

    :math:`\bar L_i(t)` is the mean of a loss over window t, counting the batches in which it was
    present. A loss that fell less than the others has the larger ratio, hence the larger weight. The
    unit of a loss cancels. K counts the present losses.

    A loss without two finished windows, or whose mean before was not positive, has the ratio 1; so
    all weights are one for the first two windows. A window in which a loss never appeared does not
    count for it.

    Args:
        temperature: T, above 0: the larger, the more equal the weights.
        window: the steps in a window, at least 1; None for one epoch, which ends where the caller
            says so.

    State:
        ``window``: the number of the running window; ``sum``, ``count``: name -> the losses in it and
        how many; ``last``, ``before``: name -> mean over the last window and the one before.

    >>> rule, state = DWA(window=1), {}
    >>> for step, losses in enumerate([[1.0, 1.0], [0.5, 1.0], [0.5, 1.0]]):
    ...     seen = Seen(("a", "b"), torch.tensor(losses), (True, True), step)
    ...     weights, state = rule.weigh(seen, state)
    >>> weights
    tensor([0.8756, 1.1244])

    References:
        Liu, Johns, Davison, End-to-End Multi-Task Learning with Attention, CVPR 2019, Eq. 7,
        https://arxiv.org/abs/1803.10704. Weights agree with ``im2im_pred/utils.py`` of lorenmt/mtan
        and with ``DWA`` of TorchJD 0.18.
    """

    temperature: float = 2.0
    window: int | None = None
    remembers: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_number(self, "temperature", positive=True)
        if self.window is not None and (type(self.window) is not int or self.window < 1):
            raise WeightingError(
                f"DWA: window must be a whole number of at least 1, or None; found {shown(self.window)}."
            )

    def weigh(self, seen: Seen, state: State) -> tuple[Tensor, State]:
        """See :class:`Weighting`."""
        names, losses = observed(seen)
        sums, counts, last, before = (state.get(key, {}) for key in ("sum", "count", "last", "before"))
        window = seen.epoch if self.window is None else seen.step // self.window
        if window != state.get("window", window):
            before = {**before, **{name: last[name] for name in sums if name in last}}
            last = {**last, **{name: value / counts[name] for name, value in sums.items()}}
            sums, counts = {}, {}
        rates = ratio(recalled(last, names, losses), recalled(before, names, losses))
        weights = len(names) * softmax(rates / self.temperature)
        return spread(weights, seen), {
            "window": window,
            "sum": stored(sums, names, (recalled(sums, names, losses) + losses).unbind()),
            "count": stored(counts, names, [counts.get(name, 0) + 1 for name in names]),
            "last": last,
            "before": before,
        }
