"""What can be a loader, and what is known of one before it is iterated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from inspect import isgeneratorfunction
from types import FunctionType
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from cograd.errors import LoaderError


def check_loader(loader: Any, name: str) -> None:
    """Refuse what gives no batches when iterated.

    Raises:
        LoaderError: says what to give instead.
    """
    if isinstance(loader, Mapping):
        raise LoaderError(
            f"{name} is a {type(loader).__name__}, which gives its keys, not batches. To draw from several loaders at "
            "once: cograd.zip_loaders(**loaders)."
        )
    if isinstance(loader, Dataset) and not isinstance(loader, IterableDataset):
        raise LoaderError(
            f"{name} is the dataset {type(loader).__name__}, which gives samples, not batches. Wrap it: "
            "torch.utils.data.DataLoader(dataset, batch_size=...)."
        )
    iterable = hasattr(type(loader), "__iter__") or hasattr(type(loader), "__getitem__")
    pointless = isinstance(loader, Tensor) and not loader.dim()
    if not iterable or pointless or isinstance(loader, (str, bytes, type)):
        call = " Call it, and give what it returns." if callable(loader) else ""
        raise LoaderError(
            f"{name} must give batches when iterated, as a DataLoader, a list or a generator does; found "
            f"{type(loader).__name__}.{call}"
        )
    if length(loader) == 0:
        raise LoaderError(
            f"{name} is empty: its length is 0. Give it data; a DataLoader with drop_last=True needs at least one "
            "whole batch."
        )


def length(loader: Any) -> int | None:
    """Batches in an epoch; None if the loader cannot tell."""
    try:
        return len(loader)
    except (TypeError, NotImplementedError):
        return None


def kind(loader: Any) -> str:
    """How an interrupted epoch is continued: by the loader itself, by replaying it, or by replaying an iterator."""
    if _continues_itself(loader):
        return "own"
    return "once" if _cannot_begin_anew(loader) else "replay"


def persistent(loader: Any) -> bool:
    """Whether it has workers that live on from epoch to epoch."""
    return bool(getattr(loader, "persistent_workers", False) and getattr(loader, "num_workers", 0))


def _cannot_begin_anew(loader: Any) -> bool:
    """A generator, or what else ``iter`` leaves as it is. An ``__iter__`` by hand may begin anew and return itself."""
    own = type(loader).__iter__ if isinstance(loader, Iterator) else None
    return own is not None and (not isinstance(own, FunctionType) or own is Iterator.__iter__)


def _continues_itself(loader: Any) -> bool:
    """Whether ``load_state_dict`` brings back the order of the batches, too."""
    if not (hasattr(loader, "state_dict") and hasattr(loader, "load_state_dict")):
        return False
    if not isinstance(loader, DataLoader):
        return True
    if isgeneratorfunction(type(loader).__iter__):  # another framework's, around one of torchdata: fetches ahead
        return False
    if isinstance(loader.dataset, IterableDataset):
        return True
    order = loader.sampler if loader.batch_sampler is None else loader.batch_sampler
    # torchdata's samplers keep their state in their iterators; any other without a state would be drawn anew
    return hasattr(order, "state_dict") or type(order).__module__.startswith("torchdata.")


def epoch_setters(loader: Any) -> list[Callable[[int], object]]:
    """``set_epoch`` of the loader, its samplers and its dataset, where they have it."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    parts = [loader, batch_sampler, getattr(batch_sampler, "sampler", None)]
    parts += [getattr(loader, name, None) for name in ("sampler", "dataset")]
    setters = {id(part): getattr(part, "set_epoch", None) for part in parts}
    return [setter for setter in setters.values() if callable(setter)]
