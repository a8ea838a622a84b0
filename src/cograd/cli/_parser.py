"""Parsers that all look alike, and the one error that a command reports without a traceback."""

from __future__ import annotations

import argparse
import inspect
from typing import Any

from jsonargparse import ArgumentParser

from cograd.errors import CogradError


class CommandError(CogradError, ValueError):
    """A command cannot run as asked. The message says why, and what to type instead."""


def parser(description: str, **options: Any) -> ArgumentParser:
    """A parser whose description keeps its lines, so that examples stay readable."""
    return ArgumentParser(
        description=inspect.cleandoc(description), formatter_class=argparse.RawDescriptionHelpFormatter, **options
    )


def subcommands(parent: ArgumentParser) -> Any:
    """What commands are added to with :func:`subcommand`."""
    return parent.add_subcommands(dest="command", required=False, metavar="COMMAND", title="commands", description=None)


def subcommand(commands: Any, name: str, child: ArgumentParser, summary: str) -> ArgumentParser:
    """Add ``child`` under ``name``; ``summary`` is its line in the parent's help."""
    commands.add_subcommand(name, child, help=summary)
    child.prog = child.prog.replace(" [options]", "")
    return child
