"""What ``fit`` shows while it runs: a bar on a terminal, lines for a log file elsewhere, or nothing."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from cograd.training._grid import Grid, figure
from cograd.training._pace import Pace

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.live import Live

Values = Mapping[str, float]

_BETWEEN_DRAWINGS = 0.2
_SHARE_OF_TIME = 1 / 200  # that drawing may take: a slow terminal is drawn to less often
_BETWEEN_LINES = 10.0
_BETWEEN_LINES_OF_EPOCHS = 1.0
_LONGEST_BAR = 40


class Show(Protocol):
    """How far the run is."""

    def step(self, step: int, epoch: int, values: Callable[[], Values]) -> None:
        """``step`` steps are done, ``epoch`` epochs completed. ``values`` is called only if something is drawn."""

    def validated(self, values: Values, step: int) -> None:
        """The models were validated after ``step`` steps."""

    def note(self, text: str) -> None:
        """Something that the user should read, and that stays."""


@contextmanager
def progress(enabled: bool, total_steps: int | None, epochs: int | None, done: int) -> Iterator[Show]:
    """Show a run of so many steps or epochs, as far as they are known, ``done`` of which were done before.

    A terminal gets a bar, drawn at most five times a second. Everything else gets lines, one in ten
    seconds or for each epoch; so does a terminal if ``NO_COLOR`` is set or ``TERM`` is ``dumb``.
    Where the run fails, what was drawn last stays.
    """
    if not enabled:
        yield _Nothing()
        return
    from rich.console import Console

    screen = Console(markup=False, highlight=False, emoji=False, force_jupyter=False)
    pace = Pace(total_steps, epochs, done)
    if not _can_be_redrawn(screen):
        lines = _Lines(screen, pace)
        yield lines
        lines.finish()
        return
    from rich.live import Live

    # no thread draws in the background: one that holds a lock while the workers of a loader are forked stops them
    bar = _Bar(screen, pace)
    with Live(bar, console=screen, auto_refresh=False, vertical_overflow="crop") as live:
        bar.live = live
        yield bar
        bar.finish()


def say(enabled: bool, text: str) -> None:
    """One line, where there is no run to show."""
    if enabled:
        from rich.console import Console

        screen = Console(markup=False, highlight=False, emoji=False, force_jupyter=False)
        screen.print(_legible(text, screen), soft_wrap=True)


def _can_be_redrawn(screen: Console) -> bool:
    if "FORCE_COLOR" in os.environ and not screen.file.isatty():  # asks for colours in a log, not for a bar
        return False
    return screen.is_interactive and not screen.no_color


class _Nothing:
    def step(self, step: int, epoch: int, values: Callable[[], Values]) -> None:
        pass

    def validated(self, values: Values, step: int) -> None:
        pass

    def note(self, text: str) -> None:
        pass


class _Lines:
    def __init__(self, screen: Console, pace: Pace) -> None:
        self._screen, self._pace = screen, pace
        self._latest: tuple[int, int, Callable[[], Values]] | None = None
        self._epoch = 0
        self._due = self._due_for_epoch = 0.0

    def step(self, step: int, epoch: int, values: Callable[[], Values]) -> None:
        self._latest = step, epoch, values
        now = time.perf_counter()
        if now >= self._due or (epoch != self._epoch and now >= self._due_for_epoch):
            self._print(step, epoch, values)

    def validated(self, values: Values, step: int) -> None:
        self.note("  ".join([f"step {step}", *_pairs(values)]))

    def note(self, text: str) -> None:
        self._screen.print(_legible(text, self._screen), soft_wrap=True)
        self._screen.file.flush()

    def finish(self) -> None:
        self._pace.finished = True
        if self._latest is not None:
            self._print(*self._latest)

    def _print(self, step: int, epoch: int, values: Callable[[], Values]) -> None:
        pace, self._epoch = self._pace, epoch
        pace.mark(step, epoch)
        head = [pace.which(), f"step {pace.where()}", pace.speed(), pace.clock()]
        self.note("  ".join([*filter(None, head), *_pairs(_worth_showing(values()))]))
        now = time.perf_counter()
        self._due, self._due_for_epoch = now + _BETWEEN_LINES, now + _BETWEEN_LINES_OF_EPOCHS


class _Bar:
    live: Live

    def __init__(self, screen: Console, pace: Pace) -> None:
        self._screen, self._pace = screen, pace
        self._latest: tuple[int, int, Callable[[], Values]] | None = None
        self._values: Values = {}
        self._validated: Values = {}
        self._due = 0.0
        self._grid = Grid()

    def step(self, step: int, epoch: int, values: Callable[[], Values]) -> None:
        self._latest = step, epoch, values
        if time.perf_counter() >= self._due:
            self._draw()

    def validated(self, values: Values, step: int) -> None:
        self._validated = dict(values)
        if time.perf_counter() >= self._due:
            self._draw()

    def note(self, text: str) -> None:
        self._screen.print(_legible(text, self._screen))

    def finish(self) -> None:
        self._pace.finished = True
        self._draw()

    def _draw(self) -> None:
        before = time.perf_counter()
        if self._latest is not None:
            step, epoch, values = self._latest
            self._values = values()
            self._pace.mark(step, epoch)
        self.live.refresh()
        now = time.perf_counter()
        self._due = now + max(_BETWEEN_DRAWINGS, (now - before) / _SHARE_OF_TIME)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from self._head(options.max_width)
        values = {**_worth_showing(self._values), **self._validated}
        yield from self._grid.rows({_legible(k, console): v for k, v in values.items()}, options.max_width)

    def _head(self, width: int) -> RenderResult:
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        pace = self._pace
        where = pace.where() if pace.total else f"step {pace.where()}"
        before, after = pace.which(), "  ".join(filter(None, (where, pace.speed(), pace.clock())))
        room = width - len(before) - len(after) - 4
        if pace.share is None or room < 8:
            yield from self._narrow_head(where, width)
            return
        line = Table.grid(padding=(0, 2, 0, 0))
        bar = ProgressBar(1.0, min(pace.share, 1.0), min(room, _LONGEST_BAR))
        line.add_row(*((before,) if before else ()), bar, after)
        yield line

    def _narrow_head(self, where: str, width: int) -> RenderResult:
        from rich.text import Text

        pace = self._pace
        parts = [pace.which(), where, pace.clock(), pace.speed()]  # the last ones go first
        while len(text := "  ".join(filter(None, parts))) > width and len(parts) > 2:
            parts.pop()
        yield Text(text, no_wrap=True, overflow="crop")


def _worth_showing(values: Values) -> Values:
    """``values``, without weights if none of them does anything."""
    weights = {name for name in values if name.startswith("weight/")}
    if any(values[name] != 1 for name in weights):
        return values
    return {name: value for name, value in values.items() if name not in weights}


def _pairs(values: Values) -> Iterator[str]:
    return (f"{name} {figure(value)}" for name, value in values.items())


def _legible(text: str, screen: Console) -> str:
    """``text`` in letters that the screen has: not every one has those of every language."""
    return text.encode(screen.encoding, "backslashreplace").decode(screen.encoding)
