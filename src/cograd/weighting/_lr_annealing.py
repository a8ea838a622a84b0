"""LRAnnealing: each gradient as large on average as the reference's is at most."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from cograd.errors import WeightingError, quoted, shown
from cograd.weighting._contract import Seen, State, Weighting, check_number


@final
@dataclass(frozen=True, slots=True)
class LRAnnealing(Weighting):
    r"""Weight :math:`\lambda_i \leftarrow \beta \lambda_i + (1 - \beta) \max|g_r| / \operatorname{mean}|g_i|`.

    The maximum and the mean run over the elements of the gradients on the shared parameters; r is
    the reference loss (the residual of a physics-informed network), whose weight is 1. The weights
    start at 1, and keep the formula's scale: equal gradients give more than ones, because a maximum
    exceeds a mean. Scaling all gradients changes nothing; scaling one divides its weight in time.

    While the reference is absent, or it or a loss has no gradient, the weight in question stays.

    Args:
        reference: the name of the reference loss.
        beta: share of the past that is kept, in [0, 1).

    State:
        ``weights``: name -> weight, of the losses seen together with the reference.

    >>> rule = LRAnnealing("loss0")
    >>> rule(abs=torch.tensor([[6.0, 2.0], [3.0, 0.5]]))  # 0.9 + 0.1 * 6 / 0.5
    tensor([1.0000, 2.1000], dtype=torch.float64)

    References:
        S. Wang, Y. Teng, P. Perdikaris, *Understanding and Mitigating Gradient Flow Pathologies in
        Physics-Informed Neural Networks*, SIAM J. Sci. Comput. 2021,
        https://arxiv.org/abs/2001.04536. The shares are those of the authors' code
        (PredictiveIntelligenceLab/GradientPathologiesPINNs): 0.9 of the past. The paper's text has
        them reversed. As in the paper, the mean is of the unweighted gradient, where that code takes
        the weighted one in some examples; and it is over all elements, not over layers.
    """

    reference: str
    beta: float = 0.9
    needs: ClassVar[frozenset[str]] = frozenset({"abs"})
    remembers: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_number(self, "beta", below=1)
        if not isinstance(self.reference, str):
            raise WeightingError(f"LRAnnealing: reference must be the name of a loss; found {shown(self.reference)}.")

    @property
    def mentions(self) -> Iterable[str]:
        """See :class:`Weighting`."""
        return (self.reference,)

    def weigh(self, seen: Seen, state: State) -> tuple[Tensor, State]:
        """See :class:`Weighting`."""
        highest, mean = self._magnitudes(seen)
        known: dict[str, float] = dict(state.get("weights", {}))
        if top := highest.get(self.reference):
            known |= {
                name: self.beta * known.get(name, 1.0) + (1 - self.beta) * top / size
                for name, size in mean.items()
                if name != self.reference and size
            }
        weights = [known.get(name, 1.0) if name in mean else 0.0 for name in seen.names]
        return torch.tensor(weights, dtype=torch.float64), {"weights": known}

    def _magnitudes(self, seen: Seen) -> tuple[dict[str, float], dict[str, float]]:
        """The largest and the mean magnitude of each present loss."""
        if seen.abs is None or seen.abs.shape != (len(seen.names), 2):
            found = None if seen.abs is None else list(seen.abs.shape)
            raise WeightingError(f"LRAnnealing: abs must be [{len(seen.names)}, 2], largest and mean; found {found}.")
        values = seen.abs.detach().to("cpu", torch.float64)
        here = [k for k, present in enumerate(seen.present) if present]
        if bad := [seen.names[k] for k in here if not values[k].isfinite().all()]:
            raise WeightingError(
                f"LRAnnealing: the gradient of {quoted(bad)} on the shared parameters is NaN or infinite."
            )
        highest, mean = values[here].T.tolist()
        names = [seen.names[k] for k in here]
        return dict(zip(names, highest, strict=True)), dict(zip(names, mean, strict=True))
