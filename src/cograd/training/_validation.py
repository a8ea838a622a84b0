"""Look at the models on other data, and leave no trace in the training."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, cast, final

import torch
from torch import Tensor

from cograd._arity import misfit
from cograd._joint import Joint
from cograd._look import MODES
from cograd._losses import Evaluation
from cograd._models import Models
from cograd._whereabouts import described
from cograd.errors import LoaderError, LossError, TrainingError, quoted, shown, unknown
from cograd.training._batches import Batches
from cograd.training._blame import blame
from cograd.training._generators import generators, restore, states
from cograd.training._move import move
from cograd.training._window import to_numbers
from cograd.training._world import kept_world


class Gathers(Protocol):
    """Anything that gathers predictions: a metric of torchmetrics, or a class of your own."""

    def update(self, *args: Any, **kwargs: Any) -> object:
        """Take one batch in."""

    def compute(self) -> Any:
        """The number of all batches, or name -> number."""

    def reset(self) -> object:
        """Begin anew."""


Predict = Callable[[Models, Any], tuple[Any, ...] | Mapping[str, tuple[Any, ...]]]
Measure = Callable[[Joint, torch.device | None], Mapping[str, Any]]


@final
class Validation:
    """Validate on a loader: the mean of each loss, and metrics of predictions.

    The mean of a ``cograd.Mean`` or ``cograd.Metric`` that has a count is weighted by it. That of any other
    loss is weighted by the size of the batches: the first dimension of their tensors where these agree,
    or ``num_graphs`` or ``batch_size`` of an object that has one. A loss that is absent from a batch does
    not count there.

    Args:
        loader: gives batches anew whenever it is iterated; the same ones each time, if it draws from a
            generator of its own.
        predict: ``predict(models, batch)`` returns what each metric is updated with, such as
            ``(prediction, target)``; or metric -> such a tuple. Followers are among ``models``. ``batch``
            is what the loader gave: what ``Joint(prepare=...)`` makes of it is for the losses.
        metrics: name -> metric, with ``update``, ``compute`` and ``reset``; moved to the device if it has ``to``.
        losses: evaluate the losses too.
        mode: ``"train"`` for losses that exist only in train mode, as of a detector; see ``Joint.evaluate``.
            ``predict`` finds the models in eval mode in any case.

    Raises:
        TrainingError, LoaderError: an argument is not as described.

    Warns:
        UserWarning: the batches have no common size, so each counts the same in a mean.

    >>> class Mean:
    ...     def reset(self):
    ...         self.seen = []
    ...     def update(self, prediction):
    ...         self.seen.append(prediction)
    ...     def compute(self):
    ...         return torch.cat(self.seen).mean().item()
    >>> joint = cograd.Joint(
    ...     models={"double": nn.Linear(1, 1)},
    ...     losses=lambda m, x: {"size": m.double(x).square().mean()},
    ...     optimizers=torch.optim.SGD,
    ... )
    >>> _ = nn.init.constant_(joint.models.double.weight, 2.0), nn.init.zeros_(joint.models.double.bias)
    >>> batches = [torch.ones(3, 1), torch.zeros(1, 1)]
    >>> validation = cograd.Validation(batches, predict=lambda m, x: (m.double(x),), metrics={"mean": Mean()})
    >>> validation(joint, None)
    {'size': 3.0, 'mean': 1.5}
    """

    def __init__(
        self,
        loader: Iterable[Any],
        *,
        predict: Predict | None = None,
        metrics: Mapping[str, Gathers] | None = None,
        losses: bool = True,
        mode: str = "eval",
    ) -> None:
        self.loader = _need_loader(loader)
        if predict is not None and (problem := misfit("predict", predict, "models", "batch")):
            raise TrainingError(problem)
        if metrics is not None and not isinstance(metrics, Mapping):
            raise TrainingError(f'metrics maps names to metrics, as in {{"accuracy": metric}}; found {shown(metrics)}.')
        for name, metric in (metrics or {}).items():
            if not isinstance(name, str) or not name:
                raise TrainingError(f"The name of a metric must be a non-empty string; found {shown(name)}.")
            lacks = [m for m in ("update", "compute", "reset") if not callable(getattr(metric, m, None))]
            if isinstance(metric, type) or lacks:
                raise TrainingError(
                    f"metrics[{name!r}] must be an object with update, compute and reset; found {shown(metric)}."
                )
        if bool(metrics) != (predict is not None):
            lacking = "metrics" if predict is not None else "predict"
            raise TrainingError(
                "predict and metrics need each other: predict gives what the metrics are updated with; found no "
                f"{lacking}."
            )
        if not isinstance(losses, bool):
            raise TrainingError(f"losses must be True or False; found {shown(losses)}.")
        if not losses and not metrics:
            raise TrainingError("losses=False without metrics leaves nothing to validate. Give predict and metrics.")
        if not isinstance(mode, str) or mode not in MODES:
            raise TrainingError(f"Validation(mode=...) must be 'eval' or 'train'; found {shown(mode)}.")
        self.predict, self.metrics, self.losses, self.mode = predict, dict(metrics or {}), losses, mode
        self._warned = False

    def __call__(self, joint: Joint, device: torch.device | None) -> dict[str, Any]:
        """Name -> number, over one pass through the loader."""
        if not isinstance(joint, Joint):
            raise TrainingError(f"joint must be a cograd.Joint; found {shown(joint)}.")
        if device is not None and not isinstance(device, torch.device):
            raise TrainingError(f"device must be a torch.device, or None; found {shown(device)}.")
        for metric in self.metrics.values():
            metric.reset()
            if device is not None and callable(to := getattr(metric, "to", None)):
                to(device)
        means = _Means()
        batches = 0
        with joint.evaluating():
            for given in self.loader:
                batch = given if device is None else move(given, device)
                batches += 1
                where = f"batch {batches} of the validation"
                if self.losses:
                    with _blaming(batch, where):
                        means.add(joint._evaluated(batch, self.mode), _size(batch))
                if self.predict is not None:
                    with _blaming(batch, where, "predict fails"), torch.no_grad():
                        predicted = self.predict(joint.models, batch)
                    self._update(predicted, batch, where)
        if not batches:
            raise LoaderError("The loader of validate gives no batches. Check its data set, and drop_last.")
        found: dict[str, Any] = dict(means.read())
        if means.guessed and not self._warned:
            self._warned = True
            warnings.warn(
                "The batches of the validation have no size that is known (their tensors do not agree on a first "
                f"dimension), so each counts the same in the mean of {quoted(means.guessed)}. Let the losses function "
                "return cograd.Mean(loss, count) for a mean over samples.",
                stacklevel=2,
            )
        for name, metric in self.metrics.items():
            if name in found:
                raise TrainingError(f"metrics[{name!r}] has the name of a loss. Rename it, or give losses=False.")
            try:
                found[name] = metric.compute()
            except Exception as error:
                error.add_note(f"This was in metrics[{name!r}].compute(), after {batches} batches of the validation.")
                raise
        return found

    def _update(self, predicted: Any, batch: Any, where: str) -> None:
        if isinstance(predicted, Mapping):
            for name in predicted:
                if name not in self.metrics:
                    raise TrainingError(
                        f"predict returned something for {name!r}, which is no metric. "
                        f"{unknown('metrics', name, self.metrics)}"
                    )
        each = predicted if isinstance(predicted, Mapping) else dict.fromkeys(self.metrics, predicted)
        for name, given in each.items():
            if not isinstance(given, tuple):
                raise TrainingError(
                    "predict must return a tuple such as (prediction, target), or metric -> tuple; found "
                    f"{type(given).__name__} for {name!r}."
                )
            with _blaming(batch, where, f"metrics[{name!r}].update{described(given)} fails"), torch.no_grad():
                self.metrics[name].update(*given)


@contextmanager
def _blaming(batch: Any, where: str, *what: str) -> Iterator[None]:
    """Say what failed, where, on which batch."""
    try:
        yield
    except Exception as error:
        blame(error, batch, where, *what)
        raise


def parse_validate(given: Any) -> Measure | None:
    """``fit(validate=...)`` as something to call with the joint and the device."""
    if given is None or isinstance(given, Validation):
        return given
    if callable(given) and not isinstance(given, Iterable | type):
        if problem := misfit("validate", given, "joint"):
            raise TrainingError(problem)
        return lambda joint, device: _need_mapping(given(joint))
    return Validation(given)


def validate(measure: Measure, joint: Joint, device: torch.device | None) -> dict[str, float]:
    """``"val/<name>"`` -> number. The models are in eval mode and need no gradients meanwhile.

    Modes, flags, the random state and the loader's own generators are put back, so the training goes on
    as if nobody had looked.
    """
    with kept_world(), _kept(getattr(measure, "loader", None)), joint.evaluating():
        found = measure(joint, device)
    numbers: dict[str, float] = {}
    for name, value in found.items():
        parts = {f"{name}/{key}": v for key, v in value.items()} if isinstance(value, Mapping) else {name: value}
        for key, number in parts.items():
            numbers[key if key.startswith("val/") else f"val/{key}"] = _need_number(key, number)
    return numbers


@contextmanager
def _kept(loader: Any) -> Iterator[None]:
    """What the loader's own generators draw is drawn again."""
    owned = generators(loader)
    drawn = states(owned)
    try:
        yield
    finally:
        restore(owned, drawn)


class _Means:
    """Means of losses and metrics, each weighted by its counts, or by the sizes of the batches if all are known."""

    def __init__(self) -> None:
        self._values: dict[str, list[Tensor | float]] = {}
        self._counts: dict[str, list[float | None]] = {}
        self._sizes: dict[str, list[int | None]] = {}
        self._batches: list[int | None] = []

    def add(self, found: Evaluation, size: int | None) -> None:
        self._batches.append(size)
        counts: dict[str, float | None] = {**found.counts}
        counts |= {name: metric.read(name) for name, metric in found.metrics.items()}
        for name, value in {**found.losses, **found.logged()}.items():
            count = counts.get(name)
            if count == 0:
                continue
            self._values.setdefault(name, []).append(value)
            self._counts.setdefault(name, []).append(count)
            self._sizes.setdefault(name, []).append(size)

    @property
    def guessed(self) -> list[str]:
        """What counts the same in each of several batches, since nothing is known of them."""
        if len(self._batches) < 2 or None not in self._batches:
            return []
        return [name for name, counts in self._counts.items() if None in counts]

    def read(self) -> dict[str, float]:
        return {name: _weighted(to_numbers(values), self._weights(name)) for name, values in self._values.items()}

    def _weights(self, name: str) -> list[float]:
        counts = [n for n in self._counts[name] if n is not None]
        if len(counts) == len(self._counts[name]):
            return counts
        if counts:
            raise LossError(
                f"{name!r} came with a count in {len(counts)} of {len(self._counts[name])} batches of the validation. "
                "Let the losses function return cograd.Mean or cograd.Metric with a count in all of them, or in none."
            )
        sizes = [n for n in self._sizes[name] if n is not None]
        return [float(n) for n in sizes] if None not in self._batches else [1.0] * len(self._counts[name])


def _weighted(values: Sequence[float], sizes: Sequence[float]) -> float:
    products = [value * size for value, size in zip(values, sizes, strict=True)]
    finite = all(map(math.isfinite, products))
    return (math.fsum(products) if finite else sum(products)) / sum(sizes)


def _size(batch: Any) -> int | None:
    """How many examples a batch has, if all of its parts agree."""
    sizes = set(_sizes(batch))
    return sizes.pop() if len(sizes) == 1 and sizes != {0} else None


def _sizes(batch: Any) -> Iterator[int]:
    """The first dimension of each tensor; of an object that says how many graphs or examples it holds, that."""
    if isinstance(batch, Tensor):
        yield from batch.shape[:1]
        return
    for name in ("num_graphs", "batch_size"):
        size = getattr(batch, name, None)
        if isinstance(size, torch.Size) and size:  # of a TensorDict
            size = size[0]
        if isinstance(size, int):
            yield size
            return
    parts = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, list | tuple) else ()
    for part in parts or getattr(batch, "__dict__", {}).values():
        yield from _sizes(part)


def _need_loader(loader: Any) -> Iterable[Any]:
    if isinstance(loader, Iterator):
        raise LoaderError(
            f"validate is a {type(loader).__name__}, which can be read only once. Give the loader itself, or a list."
        )
    if not isinstance(loader, Iterable) and not hasattr(loader, "__getitem__"):
        raise LoaderError(
            "validate must be a function f(joint) -> mapping of numbers, a loader, or cograd.Validation(loader, ...); "
            f"found {shown(loader)}."
        )
    Batches(loader, name="validate")  # refuses what gives no batches
    return cast("Iterable[Any]", loader)


def _need_mapping(found: Any) -> Mapping[str, Any]:
    if not isinstance(found, Mapping) or not all(isinstance(name, str) for name in found):
        raise TrainingError(f"The function validate must return name -> number; found {type(found).__name__}.")
    return found


def _need_number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TrainingError(f"Validation must give one number for {name!r}; found {value!r}.") from error
