"""One loader, iterated epoch by epoch, that can be continued where it was."""

from __future__ import annotations

import warnings
from collections.abc import Generator, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch.utils.data import DataLoader

from cograd.errors import LoaderError, StateError, TrainingError, quoted, shown
from cograd.training._generators import generators, restore, states
from cograd.training._loader import check_loader, epoch_setters, kind, length, persistent
from cograd.training._move import move
from cograd.training._world import kept_world, set_world_state, world_state

_END = object()
_KEYS = ("kind", "epoch", "index", "length", "loader", "start", "generators")
_HOW = {"own": "a loader with state_dict()", "replay": "a loader without state_dict()", "once": "an iterator"}


class Batches:
    """The batches of a loader on a device; each iteration gives what remains of the current epoch.

    An interrupted epoch is continued in one of three ways. A loader with ``state_dict`` and
    ``load_state_dict`` continues itself. Any other is iterated again from the random state of the
    start of the epoch, and what was given before is thrown away. An iterator (``iter(x) is x``) has
    one epoch, and is continued likewise from its start. Batches that were fetched ahead but not
    given count as not fetched.

    What a loader keeps for later in the epoch (the buffer of a shuffled stream) should not depend
    on numbers that it draws in the middle of the epoch from a global generator from which the
    training draws too: give it one of its own. Lost is what the workers of a ``StatefulDataLoader``
    drew before, and what persistent workers drew in earlier epochs.

    Args:
        loader: gives batches when iterated.
        device: where the batches go; None leaves them where they are.
        name: what messages call the loader.

    Attributes:
        epoch: epochs completed.
        index: batches given in the current epoch.

    Raises:
        LoaderError: it cannot give batches.
        TrainingError: the device cannot be used.

    >>> batches = Batches([10, 20, 30])
    >>> for batch in batches:
    ...     if batch == 20:
    ...         break
    >>> batches.epoch, batches.index
    (0, 2)
    >>> other = Batches([10, 20, 30])
    >>> other.load_state_dict(batches.state_dict())
    >>> list(other), list(other), other.epoch
    ([30], [10, 20, 30], 2)
    """

    def __init__(
        self, loader: Iterable[Any], device: torch.device | str | int | None = None, name: str = "loader"
    ) -> None:
        if not isinstance(name, str) or not name:
            raise TrainingError(f"Batches(name=...) must be text; found {shown(name)}.")
        self._loader, self._name = loader, name
        self._device = None if device is None else _usable(device)
        check_loader(loader, name)
        self._kind = kind(loader)
        self._length = self.length  # of the loader as it was given: bucketing samplers change theirs
        self._of_torch = isinstance(loader, DataLoader)  # a StatefulDataLoader is one too
        self._persistent = persistent(loader)
        # its iterator outlives an epoch, so that the next one draws less, or is made of it
        self._lives_on = self._persistent or (self._of_torch and hasattr(loader, "load_state_dict"))
        self._owned = generators(loader, self._kind == "own") if self._kind != "own" or self._of_torch else {}
        self.epoch = self.index = 0
        self._iterator: Iterator[Any] | None = None
        self._start: Mapping[str, Any] | None = None  # the random state at the start of the current epoch
        self._saved: Mapping[str, Any] | None = None  # where the next iteration continues

    @property
    def length(self) -> int | None:
        """Batches in an epoch; None if the loader cannot tell."""
        return length(self._loader)

    @property
    def alone(self) -> bool:
        """Whether a second iteration of the loader would disturb the first."""
        return self._kind != "replay" or self._persistent

    def __iter__(self) -> Iterator[Any]:
        iterator = self._iterator = self._begin() if self._iterator is None else self._iterator
        device = self._device
        while (batch := next(iterator, _END)) is not _END:  # a for loop would ask for its iterator again
            self.index += 1
            yield batch if device is None else move(batch, device)
        if not self.index:
            raise LoaderError(
                f"{self._name} gave no batch in epoch {self.epoch}. Every epoch needs one: give something that can be "
                "iterated again, such as a DataLoader or a list, and that is never empty."
            )
        self._iterator = None
        self.epoch, self.index = self.epoch + 1, 0

    def restart(self) -> None:
        """Leave the current epoch: the next iteration begins a new one. An iterator just goes on."""
        if self._kind == "once" or not self.index:
            return
        self._iterator = None
        self.epoch, self.index = self.epoch + 1, 0
        if self._saved is not None:
            self._saved = {**self._saved, "epoch": self.epoch, "index": 0}

    def state_dict(self) -> dict[str, Any]:
        """Where the iteration is, as plain tensors, numbers, strings and containers.

        It holds no global random state but that of the start of the epoch: save ``world_state()``
        beside it, and set it any time before the iteration goes on.
        """
        if self._saved is not None:
            return dict(self._saved)
        # a StatefulDataLoader that has not been iterated would draw a seed to give its state
        own = self._kind == "own" and not (self._of_torch and not self.epoch and not self.index)
        return {
            "kind": self._kind,
            "epoch": self.epoch,
            "index": self.index,
            "length": self._length,
            "loader": self._loader.state_dict() if own else None,  # type: ignore[attr-defined]
            "start": self._start if self.index else None,
            "generators": states(self._owned),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where ``state`` was taken, at the next iteration.

        Raises:
            StateError: it is of another kind of loader. Nothing was loaded.
            LoaderError: in the middle of an epoch, the loader has another length. Nothing was loaded.
        """
        self.check_state(state)
        self.epoch, self.index = state["epoch"], state["index"]
        self._iterator, self._saved = None, dict(state)

    def check_state(self, state: Mapping[str, Any]) -> None:
        """Raise what ``load_state_dict`` would raise."""
        if not isinstance(state, Mapping) or (missing := [key for key in _KEYS if key not in state]):
            found = (
                f"it has {quoted(state)}, and lacks {quoted(missing)}"
                if isinstance(state, Mapping)
                else f"found {type(state).__name__}"
            )
            raise StateError(
                f"This is no state of a loader, or a damaged one: {found}. Nothing was loaded. Resume from another "
                "checkpoint."
            )
        if odd := [key for key in ("epoch", "index") if not isinstance(state[key], int)]:
            raise StateError(
                f"This state of a loader is damaged: {odd[0]!r} must be a whole number; found {shown(state[odd[0]])}. "
                "Nothing was loaded. Resume from another checkpoint."
            )
        if state["index"] and not state["start"]:
            raise StateError(
                "This state of a loader lacks the start of its epoch, so it is damaged. Nothing was loaded. Resume "
                "from another checkpoint."
            )
        if state["kind"] != self._kind:
            raise StateError(
                f"{self._name} is {_HOW[self._kind]}; the state is of {_kind(state['kind'])}. "
                "Nothing was loaded. Resume with the same kind of loader, or start a new run."
            )
        drawn = state["generators"]
        if not isinstance(drawn, Mapping) or drawn.keys() != self._owned.keys():
            has = quoted(drawn) if isinstance(drawn, Mapping) else shown(drawn)
            raise StateError(
                f"{self._name} draws from {quoted(self._owned)}; the state has {has}. Nothing "
                "was loaded. Resume with the same loader, its generators made before training, or start a new run."
            )
        if self._kind == "replay" and state["index"] and state["length"] != self._length:
            raise LoaderError(
                f"{self._name} has {_counted(self._length)}, and had {_counted(state['length'])} when it was stopped "
                f"after {state['index']} of them, so it cannot go on there. Resume with the same data and batch size, "
                "or start a new run."
            )

    def _begin(self) -> Iterator[Any]:
        """The iterator of a new epoch, or of what remains of the saved one."""
        if self._kind == "once" and self.epoch:
            raise LoaderError(
                f"{self._name} is an iterator, and used up. For several epochs give what it was made from: a "
                "DataLoader, a list, or an object whose __iter__ begins anew."
            )
        for set_epoch in epoch_setters(self._loader):
            set_epoch(self.epoch)
        if self._saved is not None:
            with kept_world():
                iterator = self._continued(self._saved)
            self._saved = None
            if iterator is not None:
                return iterator
        self._start = {"world": world_state(), "generators": states(self._owned)}
        return iter(self._loader)

    def _continued(self, saved: Mapping[str, Any]) -> Iterator[Any] | None:
        """The iterator of an epoch that had begun; None if the next one is to begin."""
        if saved["loader"] is not None:
            self._loader.load_state_dict(saved["loader"])  # type: ignore[attr-defined]
        if self._lives_on and saved["epoch"] > 0 and (self._kind == "replay" or not saved["index"]):
            begun = iter(self._loader)
            if isinstance(begun, Generator):  # the loader of another framework, which only now asks its own
                next(begun, None)
        if self._persistent and saved["epoch"] > 0:
            warnings.warn(
                f"{self._name} has persistent workers, and they start anew: its order goes on, but not what the "
                "workers themselves draw or remember. To resume bit for bit, use persistent_workers=False.",
                stacklevel=4,
            )
        if not saved["index"]:
            restore(self._owned, saved["generators"])
            return None
        self._start = saved["start"]
        set_world_state(saved["start"]["world"])
        restore(self._owned, saved["start"]["generators"])
        iterator = iter(self._loader)
        if self._kind != "own":
            self._skip(iterator)
        restore(self._owned, saved["generators"])
        return iterator

    def _skip(self, iterator: Iterator[Any]) -> None:
        for i in range(self.index):
            try:
                next(iterator)
            except StopIteration:
                raise LoaderError(
                    f"{self._name} gave only {_counted(i)} in the epoch in which it had given {self.index}, so it "
                    "cannot go on there. Resume with the same data, or start a new run."
                ) from None


def _usable(device: torch.device | str | int) -> torch.device:
    try:
        return torch.empty(0, device=device).device
    except (AssertionError, NotImplementedError, RuntimeError, TypeError) as error:
        raise TrainingError(
            f"device={shown(device)} cannot be used here ({str(error).splitlines()[0]}). Choose another, such as 'cpu'."
        ) from error


def _kind(saved: Any) -> str:
    return _HOW[saved] if isinstance(saved, str) and saved in _HOW else shown(saved)


def _counted(batches: int | None) -> str:
    return "an unknown number of batches" if batches is None else f"{batches} batch{'es' * (batches != 1)}"
