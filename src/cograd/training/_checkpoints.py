"""The checkpoints of a run: each a file of its own, complete or absent, and checked before it is trusted."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cograd.errors import CheckpointError, TrainingError, quoted, report, shown, unknown
from cograd.training._checkpoint import FORMAT, NAME, CheckpointFile, UnusableError, intact, read, write
from cograd.training._files import (
    publish,
    publish_again,
    reason,
    remove_leftovers,
    sync_folder,
    unfinished,
    write_durably,
)
from cograd.training._lock import locked
from cograd.training._plain import strangers


class Checkpoints:
    """The checkpoints in the folder of a run.

    A checkpoint is a file ``step-00001200-<hash>.pt`` that ``torch.load(path, weights_only=True)`` reads by itself. It
    gets this name once all of it is on the disk, so a file of that name is complete, and the hash tells whether it
    still is. The best one has a second name, ``best-00001200-<hash>.pt``: made before the best until then is removed,
    and before anything else that the save changes. So at every moment there is a newest checkpoint and a best one.

    Reading needs nothing. Writing needs ``with checkpoints:``, which makes the folder, keeps other processes out, and
    clears away what a killed write has left. Inside, a run that goes on calls ``newest`` before it saves.

    Args:
        folder: where. It need not exist.
        keep: how many to keep, beside the best one; at least 1.
        best: the name of the value that decides which is the best; None for no best one.
        higher_is_better: whether a higher value is better. Of equal ones the earlier is the best; NaN never is.

    Raises:
        TrainingError: ``keep`` or ``best`` is not as above.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> with Checkpoints(folder, keep=1, best="loss") as checkpoints:
    ...     first = checkpoints.save({"x": torch.zeros(2)}, step=10, values={"loss": 0.5})
    ...     second = checkpoints.save({"x": torch.ones(2)}, step=20, values={"loss": 0.7})
    >>> Checkpoints(folder).newest()[0], Checkpoints(folder).best_state()[0]
    ({'x': tensor([1., 1.])}, {'x': tensor([0., 0.])})
    >>> first.exists(), second.name == f"step-00000020-{second.stem[-16:]}.pt"
    (False, True)
    """

    def __init__(
        self, folder: str | Path, keep: int = 3, best: str | None = None, higher_is_better: bool = False
    ) -> None:
        if not isinstance(folder, str | os.PathLike) or not str(folder):
            raise TrainingError(f"folder must be a path; found {shown(folder)}.")
        if not isinstance(keep, int) or isinstance(keep, bool) or keep < 1:
            raise TrainingError(f"keep must be a whole number of checkpoints, at least 1; found {shown(keep)}.")
        if best is not None and not isinstance(best, str):
            raise TrainingError(f"best must be the name of a value, or None; found {shown(best)}.")
        if not isinstance(higher_is_better, bool):
            raise TrainingError(f"higher_is_better must be True or False; found {shown(higher_is_better)}.")
        self.folder = Path(folder)
        self.keep = keep
        self.best = best
        self.higher_is_better = higher_is_better
        self._writing: ExitStack | None = None
        self._last: int | None = None  # step of the checkpoint that this run has saved or continued from
        self._saved = 0  # how many the run has saved, kills and all; tells apart two of the same step
        self._record: dict[str, Any] | None = None  # value and step of the best
        self._measured = False  # whether the value that decides has been seen
        self._skipped: set[Path] = set()  # those that cannot be used
        self._newest: CheckpointFile | None = None  # the one that this run continues, until it saves

    def __enter__(self) -> Self:
        """Start writing.

        Raises:
            CheckpointError: another process writes there, or the folder cannot be written.
        """
        with ExitStack() as stack:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                sync_folder(self.folder.parent)
                stack.enter_context(locked(self.folder))
                remove_leftovers(self.folder)
            except CheckpointError:
                raise
            except OSError as error:
                raise _failed(f"{self.folder} cannot hold checkpoints: {reason(error)}", error) from error
            self._writing = stack.pop_all()
        self._last = self._newest = None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let other processes write."""
        if self._writing is not None:
            self._writing.close()
            self._writing = None

    def save(self, state: Mapping[str, Any], step: int, values: Mapping[str, float]) -> Path:
        """Save ``state``, then remove the checkpoints that are not to be kept.

        Args:
            state: plain tensors (on any device), numbers, strings, and containers of them.
            step: of the run, not below that of the checkpoint before. One of the same step replaces that.
            values: what was measured, by name. One without the value that decides is not the best; without values it is
                taken that nothing has been measured yet.

        Returns:
            The file.

        Raises:
            CheckpointError: ``state`` is not plain; or the disk does not take it (then ``errno`` says why), and all is
                as before; or there are checkpoints that this run does not continue.
            TrainingError: ``values`` is the first with anything in it, and lacks the value that decides.
        """
        if not isinstance(state, Mapping):
            raise TrainingError(f"state must be a mapping, such as a state_dict(); found {shown(state)}.")
        if not isinstance(step, int) or isinstance(step, bool) or step < 0:
            raise TrainingError(f"step must be a whole number of at least 0; found {shown(step)}.")
        values = _numbers(values)
        self._check(state, step, values)
        record = self._best_after(step, values)
        content = {
            "format": FORMAT,
            "step": step,
            "saved": self._saved + 1,
            "values": values,
            "best": record,
            "state": dict(state),
        }
        try:
            path, best = self._write(content, step, record is not self._record)
        except OSError as error:
            earlier = [file.path.name for file in self._files("step", "best") if file.path not in self._skipped]
            spared = (
                f"Earlier ones are untouched; the newest is {earlier[0]}." if earlier else "There is no earlier one."
            )
            raise _failed(f"No checkpoint of step {step} in {self.folder}: {reason(error)} {spared}", error) from error
        self._last, self._saved, self._record = step, self._saved + 1, record
        self._measured = self._measured or self.best in values
        self._newest = None
        self._remove_all_but(self._kept(step, path, best))
        self._skipped.clear()
        return path

    def newest(self) -> tuple[dict[str, Any], Path] | None:
        """The state of the newest checkpoint, on the CPU, and its file. Later saves continue from it.

        One that is damaged is left out with a warning, and removed by the next save.

        Returns:
            None if there are no checkpoints.

        Raises:
            CheckpointError: none can be used, or the newest is of another version.
        """
        found = self._first_good(self._files("step", "best"))
        if found is None:
            return None
        content, file = found
        if self._writing is not None:
            self._continue(content, file)
        return content["state"], file.path

    def tidy(self) -> None:
        """Finish what a save that was killed had no time for: give the newest its name, remove what is not to be kept.

        Damaged checkpoints stay for the next save. A run that goes on calls this after ``newest``, for it may have
        nothing left to save.

        Raises:
            CheckpointError: the disk does not take the name.
        """
        if (newest := self._newest) is None:
            return
        best, path = (self.folder / f"{kind}{newest.path.name[4:]}" for kind in ("best", "step"))
        if not path.exists():
            try:
                publish_again(best, path)
            except OSError as error:
                raise _failed(f"{best} is not given its other name: {reason(error)}", error) from error
        self._remove_all_but(self._kept(newest.step, path, best if best.exists() else None) | self._skipped)

    def any(self) -> bool:
        """Whether there are checkpoints, usable or not."""
        return bool(self._files("step", "best"))

    def best_state(self) -> tuple[dict[str, Any], Path]:
        """The state of the best checkpoint, on the CPU, and its file.

        It is that of the training: a schedule-free optimizer gives its weights for evaluation once the state is
        loaded into a ``Joint``, to ``Joint.evaluating`` and ``export``.

        Raises:
            CheckpointError: there is none, it cannot be used, or is of another version.
        """
        found = self._first_good(self._files("best"))
        if found is None:
            others = [file.path.name for file in self._files("step")]
            raise CheckpointError(
                f"{self.folder} holds no best checkpoint; found {quoted(others)}. "
                'fit(best="val/...") keeps one once that value has been finite; newest() gives the newest.'
            )
        return found[0]["state"], found[1].path

    def _continue(self, content: Mapping[str, Any], file: CheckpointFile) -> None:
        """Go on from ``content``: what has been saved, and which is the best."""
        self._newest = file
        self._last, self._saved, self._record = file.step, content["saved"], content["best"]
        self._measured = self.best in content["values"] or (self._record or {}).get("name") == self.best
        deciding = {"name": self.best, "higher_is_better": self.higher_is_better}
        if self._record is None or not deciding.items() <= self._record.items():
            self._record = None  # another value decides now
        elif not any(best.digest == file.digest or intact(best) for best in self._files("best")):
            warnings.warn(
                f"The best checkpoint in {self.folder}, of step {self._record['step']}, is damaged or gone. The next "
                "one takes its place.",
                stacklevel=3,
            )
            self._record = None

    def _check(self, state: Mapping[str, Any], step: int, values: Mapping[str, float]) -> None:
        if self._writing is None:
            raise CheckpointError("save() needs the folder for itself: call it inside `with checkpoints:`.")
        if self._last is None and (others := self._files("step", "best")):
            raise CheckpointError(
                f"{self.folder} holds checkpoints of a run that is not being continued ({others[0].path.name}). Resume "
                "it, or choose another run_dir."
            )
        if self._last is not None and step < self._last:
            raise CheckpointError(
                f"A checkpoint of step {step} would come after that of step {self._last} in {self.folder}. Choose "
                "another run_dir to train anew."
            )
        if self.best is not None and values and self.best not in values and not self._measured:
            raise TrainingError(f"best={self.best!r} names no value. {unknown('values', self.best, values)}")
        if places := list(strangers(dict(state), "state")):
            raise CheckpointError(
                "A checkpoint holds plain tensors, numbers, strings, and dicts, lists, tuples and sets of them, so "
                "that reading it runs no code. Convert what is not, or leave it out. "
                + report([f"It is found at {place}." for place in places])
            )

    def _best_after(self, step: int, values: Mapping[str, float]) -> dict[str, Any] | None:
        """The record of the best, once a checkpoint with ``values`` is saved."""
        value = values.get(self.best, math.nan) if self.best is not None else math.nan
        if math.isnan(value):
            return self._record
        if self._record is not None:
            before = self._record["value"]
            if not (value > before if self.higher_is_better else value < before):
                return self._record
        return {"name": self.best, "higher_is_better": self.higher_is_better, "value": value, "step": step}

    def _write(self, content: Mapping[str, Any], step: int, is_best: bool) -> tuple[Path, Path | None]:
        """The new file, and its second name if it is the best; nothing of them if this fails."""
        with unfinished(self.folder / f"step-{step:08d}") as part:
            name = f"{step:08d}-{write_durably(part, lambda file: write(content, file))}.pt"
            path, best = self.folder / f"step-{name}", self.folder / f"best-{name}"
            try:
                if is_best:
                    publish_again(part, best)
                publish(part, path)
            except BaseException:
                for unsure in (path, best):
                    with suppress(OSError):  # the first error is the one to report
                        unsure.unlink(missing_ok=True)
                raise
        return path, best if is_best else None

    def _kept(self, step: int, path: Path, best: Path | None) -> set[Path]:
        """Those that stay where ``path``, of ``step``, is the newest one, and ``best`` the best if it is the same."""
        steps = [file for file in self._files("step") if file.path not in self._skipped]
        kept = {path, *[file.path for file in steps if file.step < step][: self.keep - 1]}
        if best is not None:
            return kept | {best}
        bests = [file for file in self._files("best") if file.path not in self._skipped]
        named = [file for file in bests if self._record and file.step == self._record["step"]]
        return kept | {file.path for file in named or bests}

    def _remove_all_but(self, kept: set[Path]) -> None:
        for file in self._files("step", "best"):
            if file.path not in kept:
                try:
                    file.path.unlink(missing_ok=True)
                except OSError as error:
                    warnings.warn(
                        f"The old checkpoint {file.path} cannot be removed ({error.strerror}); the next save will "
                        "try again.",
                        stacklevel=3,
                    )

    def _files(self, *kinds: str) -> list[CheckpointFile]:
        """Those that are there, newest first."""
        try:
            names = [path for path in self.folder.iterdir() if path.is_file()] if self.folder.exists() else []
        except OSError as error:
            raise _failed(f"{self.folder} cannot be looked into: {reason(error)}", error) from error
        matches = [(path, NAME.fullmatch(path.name)) for path in names]
        files = [CheckpointFile(int(match[2]), match[1], match[3], path) for path, match in matches if match]
        return sorted((file for file in files if file.kind in kinds), reverse=True)

    def _first_good(self, files: Iterable[CheckpointFile]) -> tuple[dict[str, Any], CheckpointFile] | None:
        files, faults = list(files), dict[Path, str]()
        for _, same_step in groupby(files, key=lambda file: file.step):
            good: dict[str, tuple[dict[str, Any], CheckpointFile]] = {}
            for file in same_step:
                if file.digest in good:  # the same one by its other name
                    continue
                try:
                    good[file.digest] = read(file), file
                except UnusableError as fault:
                    faults[file.path] = str(fault)
                except FileNotFoundError:  # a run that goes on has replaced it
                    return self._first_good(self._files(*{file.kind for file in files}))
            if good:
                chosen = max(good.values(), key=lambda found: found[0]["saved"])
                if faults:
                    warnings.warn(f"{_told(faults)} Using {chosen[1].path.name} instead.", stacklevel=3)
                self._skipped |= faults.keys()
                return chosen
        if faults:
            raise CheckpointError(
                f"No checkpoint in {self.folder} can be used. {_told(faults)} Restore one from a copy, or choose "
                "another run_dir to train anew."
            )
        return None


def _numbers(values: Any) -> dict[str, float]:
    if not isinstance(values, Mapping) or not all(isinstance(name, str) for name in values):
        raise TrainingError(f"values must map names to numbers; found {shown(values)}.")
    found = {}
    for name, value in values.items():
        try:
            if isinstance(value, str | bytes):
                raise TypeError(value)
            found[name] = float(value)
        except (RuntimeError, TypeError, ValueError) as error:
            raise TrainingError(f"values[{name!r}] must be a number; found {shown(value)}.") from error
    return found


def _failed(message: str, error: OSError) -> CheckpointError:
    failure = CheckpointError(message)
    failure.errno = error.errno
    return failure


def _told(faults: Mapping[Path, str]) -> str:
    return report([f"The checkpoint {path.name} {fault}." for path, fault in faults.items()])
