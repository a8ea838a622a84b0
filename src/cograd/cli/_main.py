"""Which commands there are, and what a user sees when one cannot run."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import cograd
from cograd.cli import _demo, _doctor, _recipe
from cograd.cli._parser import CommandError, subcommands
from cograd.cli._parser import parser as make_parser
from cograd.errors import DiagnosisError, RecipeError

_COMMANDS = {"demo": _demo, "recipe": _recipe, "doctor": _doctor}
_OPTIONAL = {"sklearn": "scikit-learn", "matplotlib": "matplotlib"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: what was typed after ``cograd``; by default the process's own arguments.

    Returns:
        The exit code: 0 for success, 1 if a recipe did no better than its trivial answer or a script has faults,
        2 if the command could not run as asked, 130 after Ctrl-C.

    Raises:
        SystemExit: after ``--help`` and ``--version``, and for arguments that do not parse.
    """
    parser = make_parser(_ABOUT, prog="cograd", version=cograd.__version__)
    commands = subcommands(parser)
    parsers = {name: command.add(commands, name) for name, command in _COMMANDS.items()}
    arguments = parser.parse_args(sys.argv[1:] if argv is None else list(argv))
    name = arguments.command
    if name is None or arguments[name].get("command", name) is None:
        parsers.get(name, parser).print_help()
        return 2
    try:
        code: int = _COMMANDS[name].run(arguments[name])
        sys.stdout.flush()
    except (CommandError, RecipeError, DiagnosisError) as error:
        return _refused(str(error))
    except ModuleNotFoundError as error:
        package = _OPTIONAL.get((error.name or "").partition(".")[0])
        if package is None:
            raise
        return _refused(f'{package} is not installed, and this needs it. Type: pip install "cograd[demo]"')
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader has seen enough: cograd recipe list | head -1
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code


def _refused(message: str) -> int:
    print(f"cograd: {message}", file=sys.stderr)
    return 2


_ABOUT = """
Train several PyTorch models with several losses, each gradient where it belongs.

See it at work:       cograd demo gan
Start from a recipe:  cograd recipe copy gan my_gan.py
Check a script:       cograd doctor train.py
"""
