"""Several loaders, side by side."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, get_args

from cograd.errors import LoaderError, StateError, TrainingError, quoted, shown, unknown
from cograd.training._batches import Batches

Mode = Literal["cycle", "shortest", "longest"]
_END = object()


class Zipped:
    """What ``zip_loaders`` returns."""

    def __init__(self, parts: Mapping[str, Batches], mode: Mode) -> None:
        self._parts, self._mode = parts, mode
        self._over: set[str] | None = None  # the loaders that ended in this epoch; None between epochs
        self._resumed = False

    def __len__(self) -> int:
        lengths = [part.length for part in self._parts.values()]
        known = [length for length in lengths if length is not None]
        if len(known) < len(lengths):
            raise TypeError(
                f"The length of {quoted(n for n, p in self._parts.items() if p.length is None)} is unknown."
            )
        return min(known) if self._mode == "shortest" else max(known)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        resumed, self._resumed = self._resumed, False
        over = self._over = self._over if resumed and self._over is not None else self._restarted()
        iterators = {name: iter(part) for name, part in self._parts.items()}
        while True:
            batch = {}
            for name in [name for name in self._parts if name not in over]:
                given = next(iterators[name], _END)
                if given is not _END:
                    batch[name] = given
                    continue
                over.add(name)
                if self._mode == "shortest":
                    self._over = None
                    return
            if not batch:
                self._over = None
                return
            if self._mode == "cycle":
                for name in [name for name in self._parts if name in over]:
                    batch[name] = next(iterators[name], _END)
                    if batch[name] is _END:
                        iterators[name] = iter(self._parts[name])
                        batch[name] = next(iterators[name])
            yield {name: batch.get(name) for name in self._parts}

    def _restarted(self) -> set[str]:
        for part in self._parts.values():
            part.restart()
        return set()

    def state_dict(self) -> dict[str, Any]:
        """Where each loader is, in plain containers."""
        return {
            "mode": self._mode,
            "over": None if self._over is None else sorted(self._over),
            "loaders": {name: part.state_dict() for name, part in self._parts.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where ``state`` was taken, at the next iteration.

        Raises:
            StateError: it is of other loaders or of another mode. Nothing was loaded.
        """
        if not isinstance(state, Mapping) or not {"mode", "over", "loaders"} <= state.keys():
            raise StateError("This is no state of zip_loaders, or a damaged one. Nothing was loaded.")
        if (state["mode"], state["loaders"].keys()) != (self._mode, self._parts.keys()):
            raise StateError(
                f"zip_loaders has {quoted(self._parts)} and mode {self._mode!r}; the state has "
                f"{quoted(state['loaders'])} and mode {state['mode']!r}. Nothing was loaded. Resume with the same."
            )
        for name, part in self._parts.items():
            part.check_state(state["loaders"][name])
        for name, part in self._parts.items():
            part.load_state_dict(state["loaders"][name])
        self._over = None if state["over"] is None else set(state["over"])
        self._resumed = True


def zip_loaders(*, mode: Mode = "cycle", **loaders: Iterable[Any]) -> Zipped:
    """Several loaders as one, each batch a dict with a batch of each.

    Each iteration begins every loader anew. ``fit`` can resume it in the middle of an epoch, where
    each loader is continued as it would be by itself.

    Args:
        mode: when an epoch ends. ``"cycle"``: with the longest loader; a shorter one is iterated
            again as often as needed, so that it shuffles anew. ``"shortest"``: as soon as one
            loader ends. ``"longest"``: with the longest loader; one that has ended gives None.
        **loaders: iterables of batches by name. An iterator, which cannot begin anew, goes on
            where it is.

    Returns:
        An iterable of dicts name -> batch, with a length if all loaders have one.

    Raises:
        LoaderError: a loader gives no batches, or cannot be iterated twice at once and is named twice.
        TrainingError: there is no such mode, or no loader.

    >>> photos, sketches = [1, 2, 3], ["a", "b"]
    >>> for batch in zip_loaders(photo=photos, sketch=sketches):
    ...     print(batch)
    {'photo': 1, 'sketch': 'a'}
    {'photo': 2, 'sketch': 'b'}
    {'photo': 3, 'sketch': 'a'}
    >>> len(zip_loaders(photo=photos, sketch=sketches, mode="shortest"))
    2
    >>> list(zip_loaders(photo=photos, sketch=sketches, mode="longest"))[-1]
    {'photo': 3, 'sketch': None}
    """
    if not isinstance(mode, str) or mode not in get_args(Mode):
        raise TrainingError(f"mode={shown(mode)} does not exist. {unknown('modes', mode, get_args(Mode))}")
    if not loaders:
        raise TrainingError("zip_loaders needs loaders by name: zip_loaders(labelled=a, unlabelled=b).")
    parts = {name: Batches(loader, name=f"The loader {name!r}") for name, loader in loaders.items()}
    first: dict[int, str] = {}
    for name, loader in loaders.items():
        if isinstance(loader, Zipped):
            raise LoaderError(f"The loader {name!r} is itself of zip_loaders. Give its loaders here, each by a name.")
        other = first.setdefault(id(loader), name)
        if other != name and parts[name].alone:
            raise LoaderError(
                f"{other!r} and {name!r} are one loader, which cannot be iterated twice at once. Make a second one."
            )
    return Zipped(parts, mode)
