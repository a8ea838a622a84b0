"""``cograd recipe``: where the recipes lie, and copies of them to start from."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from cograd import recipes
from cograd.cli import _catalogue
from cograd.cli._parser import CommandError, subcommand, subcommands
from cograd.cli._parser import parser as make_parser


def add(commands: Any, name: str) -> ArgumentParser:
    """Add the command and its own subcommands."""
    recipe = subcommand(commands, name, make_parser(_ABOUT), "find a recipe, or copy one as a starting point")
    below = subcommands(recipe)
    subcommand(below, "list", make_parser(_ABOUT_LIST), "name every recipe")
    path = subcommand(below, "path", make_parser(_ABOUT_PATH), "print where a recipe lies")
    _name(path)
    copy = subcommand(below, "copy", make_parser(_ABOUT_COPY), "copy a recipe, to change it")
    _name(copy)
    copy.add_argument("file", metavar="FILE", help="where to: a file that does not exist yet, or a folder")
    copy.add_argument("--force", action="store_true", help="overwrite FILE")
    return recipe


def run(arguments: Namespace) -> int:
    """Run the subcommand that was typed."""
    match arguments.command:
        case "list":
            _catalogue.print_list(recipes.names())
        case "path":
            print(_catalogue.path(arguments["path"].recipe))
        case "copy":
            copy = arguments["copy"]
            _copy(copy.recipe, Path(copy.file), force=copy.force)
    return 0


def _name(parser: ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", help="name of the recipe; cograd recipe list names them all")


def _copy(name: str, target: Path, *, force: bool) -> None:
    source = _catalogue.path(name)
    if target.is_dir():
        target = target / source.name
    if target.exists() and not force:
        raise CommandError(f"{target} exists already. Choose another name, or overwrite it with --force.")
    if not target.parent.is_dir():
        raise CommandError(f"There is no folder {target.parent}. Type: mkdir -p {shlex.quote(str(target.parent))}")
    try:
        shutil.copyfile(source, target)
    except OSError as error:
        raise CommandError(f"Cannot write {target} ({error.strerror}). Choose another place.") from error
    print(f"Copied {name} to {target}. Train it: python {shlex.quote(str(target))}")


_ABOUT = """
Recipes are small complete systems on real data, one readable file each.

Example:  cograd recipe copy gan my_gan.py
"""

_ABOUT_LIST = """
Name every recipe, with a line on what it shows.

Example:  cograd recipe list
"""

_ABOUT_PATH = """
Print where a recipe lies, and nothing else, for use in scripts.

Example:  less "$(cograd recipe path gan)"
"""

_ABOUT_COPY = """
Copy a recipe as a starting point of your own. It runs as it is: python FILE

Example:  cograd recipe copy gan my_gan.py
"""
