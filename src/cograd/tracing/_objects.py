"""Small numbers for parameters, optimizers and values, which keep nothing alive."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Numbers(Generic[T]):
    """Gives each object a number of its own, for as long as it lives and never again.

    A new number can also be given to an object that changed.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[Any], int]] = {}
        self._next = 0

    def get(self, thing: T) -> int | None:
        """The number of ``thing``; None if it has none."""
        entry = self._known.get(id(thing))
        return None if entry is None or entry[0]() is not thing else entry[1]

    def of(self, thing: T) -> int:
        """The number of ``thing``, given now if it has none."""
        number = self.get(thing)
        if number is None:
            number = self._next
            self._next += 1
            self.set(thing, number)
        return number

    def set(self, thing: T, number: int) -> None:
        """Let ``number`` stand for ``thing`` from now on."""
        key = id(thing)
        known = self._known

        def forget(reference: weakref.ref[Any]) -> None:
            entry = known.get(key)
            if entry is not None and entry[0] is reference:
                del known[key]

        known[key] = weakref.ref(thing, forget), number

    def living(self) -> Iterator[tuple[T, int]]:
        """Every object that still exists, with its number."""
        for reference, number in list(self._known.values()):
            thing = reference()
            if thing is not None:
                yield thing, number

    def __len__(self) -> int:
        return len(self._known)

    def clear(self) -> None:
        """Forget all."""
        self._known.clear()
