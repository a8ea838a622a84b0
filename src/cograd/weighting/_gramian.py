"""The Gramian as norms and cosines: the scale-free form that every rule of this family works with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cograd.errors import ConvergenceError, WeightingError, quoted, shown
from cograd.weighting._contract import Seen, Weighting, check_factors

Array = NDArray[np.float64]


class Geometry(NamedTuple):
    """The n present losses whose gradient is not zero. A rule solves for these alone."""

    names: list[str]
    norms: Array  # [n], lengths of the gradients
    cosines: Array  # [n, n], symmetric, ones on the diagonal
    at: list[int]  # their positions among the K losses


def gramian_of(rule: Weighting, seen: Seen) -> tuple[list[str], Array]:
    """The names of the n present losses and their Gramian ``[n, n]``, symmetric and finite.

    Raises:
        WeightingError: there is none, or it is not ``[K, K]``, or the gradient of a loss is not finite.
    """
    size, who = len(seen.names), type(rule).__name__
    if seen.gramian is None:
        raise WeightingError(f"{who} needs the Gramian of the losses {quoted(seen.names)}; found None.")
    if seen.gramian.shape != (size, size):
        raise WeightingError(
            f"{who}: the Gramian of the losses {quoted(seen.names)} must be [{size}, {size}]; "
            f"found {list(seen.gramian.shape)}."
        )
    matrix: Array = seen.gramian.detach().to("cpu", torch.float64).numpy()
    names = list(seen.names)
    if not all(seen.present):
        here = [k for k in range(size) if seen.present[k]]
        names, matrix = [names[k] for k in here], matrix[np.ix_(here, here)]
    if not np.isfinite(matrix.sum()) and not np.isfinite(matrix).all():
        diagonal: NDArray[np.bool_] = np.isfinite(matrix.diagonal())
        rows: NDArray[np.bool_] = np.isfinite(matrix).sum(axis=1) == len(names)
        fine: list[bool] = (rows if diagonal.all() else diagonal).tolist()
        raise WeightingError(
            f"{who}: the gradient of {quoted(n for n, ok in zip(names, fine, strict=True) if not ok)} "
            "on the shared parameters is NaN or infinite, or its square overflows."
        )
    squares = matrix.diagonal()
    if squares.size and squares.min() < 0:
        raise WeightingError(
            f"{who}: the diagonal of a Gramian cannot be negative; found {squares.min():g} "
            f"for {names[int(squares.argmin())]!r}."
        )
    return names, (matrix + matrix.T) / 2


def geometry(rule: Weighting, seen: Seen) -> Geometry:
    """Norms and cosines of the present losses with a gradient. Raises as :func:`gramian_of`."""
    names, matrix = gramian_of(rule, seen)
    squares = matrix.diagonal()
    at = [k for k, here in enumerate(seen.present) if here]
    if not squares.all():
        some = np.flatnonzero(squares)
        names, at, matrix = [names[k] for k in some], [at[k] for k in some], matrix[np.ix_(some, some)]
        squares = matrix.diagonal()
    norms = np.sqrt(squares)
    cosines = np.maximum(np.minimum(matrix / norms / norms[:, None], 1), -1)
    cosines.flat[:: len(norms) + 1] = 1
    return Geometry(names, norms, cosines, at)


def combined(rule: Weighting, seen: Seen, solve: Callable[[Geometry], Array], drawn: bool = False) -> Tensor:
    """The weights ``[K]``: what ``solve`` gives, 1 where the gradient is zero, 0 where absent.

    A rule that is not ``drawn`` sees the losses in an order that follows from the gradients alone, so
    that even its rounding does not depend on the order in which they were given.

    Raises:
        ConvergenceError: ``solve`` found nothing; as :func:`gramian_of` otherwise.
    """
    here = geometry(rule, seen)
    if not drawn and len(here.at) > 1:
        here = _ordered(here)
    try:
        weights = solve(here) if here.at else here.norms
    except ConvergenceError as error:
        raise ConvergenceError(
            f"{type(rule).__name__}: {error} (losses {quoted(here.names)}). Skip this batch, or look at the Gramian: "
            "its cosines say which gradients are parallel or opposite."
        ) from None
    if len(here.at) == len(seen.names) and drawn:
        return torch.from_numpy(weights)
    every = np.array(seen.present, dtype=np.float64)
    every[here.at] = weights
    return torch.from_numpy(every)


def _ordered(here: Geometry) -> Geometry:
    """The same losses, longest gradients first; the cosines decide between equal lengths."""
    order = np.argsort(-here.norms, kind="stable")
    if not (np.diff(here.norms[order]) < 0).all():
        order = np.lexsort([*np.sort(here.cosines, axis=1).T, -here.norms])
    places = order.tolist()
    names, at = [here.names[k] for k in places], [here.at[k] for k in places]
    return Geometry(names, here.norms[order], here.cosines[order[:, None], order], at)


def check_scale(rule: Weighting, scale: str) -> None:
    """Raises WeightingError unless ``scale`` is one of the two."""
    if not isinstance(scale, str) or scale not in ("sum", "paper"):
        raise WeightingError(f"{type(rule).__name__}: scale must be 'sum' or 'paper'; found {shown(scale)}.")


def check_preference(rule: Weighting, preference: Any) -> None:
    """Raises WeightingError unless ``preference`` is None or maps names to numbers >= 0."""
    if preference is not None:
        check_factors(rule, preference)
        if negative := [name for name, share in preference.items() if share < 0]:
            raise WeightingError(
                f"{type(rule).__name__}: the preference for {negative[0]!r} must be >= 0; "
                f"found {shown(preference[negative[0]])}."
            )


def preferred(preference: Mapping[str, float] | None, names: Sequence[str], scale: str) -> Array:
    """The shares ``[n]`` of the losses in the sum, or in the paper's mean."""
    shares = np.array([(preference or {}).get(name, 1.0) for name in names])
    return shares / len(names) if scale == "paper" else shares
