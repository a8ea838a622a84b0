"""``cograd demo``: train the recipes, and show what came out and what it cost."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jsonargparse import ArgumentParser, Namespace

from cograd.cli import _catalogue
from cograd.cli._parser import CommandError, subcommand
from cograd.cli._parser import parser as make_parser

if TYPE_CHECKING:
    from rich.console import Console

    from cograd.cli._trial import Trial


def add(commands: Any, name: str) -> ArgumentParser:
    """Add the command."""
    demo = subcommand(commands, name, make_parser(_ABOUT), "train the recipes and show what comes out")
    demo.add_argument("recipes", nargs="*", metavar="RECIPE", help="which ones; all if none is named")
    demo.add_argument("--list", action="store_true", help="name the recipes, and train none")
    demo.add_argument("--out", metavar="DIR", help="draw a picture of each recipe into this folder")
    return demo


def run(arguments: Namespace) -> int:
    """Train, print the table, and say with the exit code whether every recipe beat its trivial answer."""
    names = _catalogue.check(arguments.recipes)
    if arguments.list:
        _catalogue.print_list(names)
        return 0

    from cograd.cli._screen import console, progress
    from cograd.cli._table import print_verdict, table
    from cograd.cli._trial import try_out

    folder = None if arguments.out is None else _folder(Path(arguments.out))
    screen = console()
    trials: list[Trial] = []
    pictures: list[Path] = []
    interrupted = False
    try:
        with _one_thread(), progress(screen, len(names)) as show:
            for name in names:
                show.start(name)
                trial = try_out(name, show.advance)
                trials.append(trial)
                if folder is not None:
                    pictures.append(_draw(trial, folder))
                show.finish(trial.outcome)
    except KeyboardInterrupt:
        interrupted = True
    finally:  # also on an error, which then follows: what is finished was worth waiting for
        if trials:
            screen.print(table(trials, screen.width))
            print_verdict(screen, trials)
        _say_where(screen, pictures)
    if interrupted:
        screen.print(f"Interrupted. Finished: {len(trials)} of {len(names)}.")
        return 130
    return 0 if all(trial.beats_baseline for trial in trials) else 1


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep torch to one thread: these models are too small to share, and threads on a busy machine wait in turns."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _folder(folder: Path) -> Path:
    """``folder``, made if needed; complains before anything has been trained."""
    importlib.import_module("matplotlib")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CommandError(
            f"--out {folder}: cannot make this folder ({error.strerror}). Choose another one."
        ) from error
    return folder


def _draw(trial: Trial, folder: Path) -> Path:
    from cograd.cli._picture import save

    return save(trial, folder / f"{trial.name}.png")


def _say_where(screen: Console, pictures: list[Path]) -> None:
    if len(pictures) == 1:
        screen.print(f"Picture: {pictures[0]}", soft_wrap=True)
    elif pictures:
        screen.print(f"{len(pictures)} pictures in {pictures[0].parent}", soft_wrap=True)


_ABOUT = """
Train recipes, a few seconds each, and compare: the backward passes of a step, how well the
models do against a trivial answer, and the time of a step against the same loop by hand.
The exit code is 1 if a recipe does no better than its trivial answer.

Example:  cograd demo gan --out pictures
"""
