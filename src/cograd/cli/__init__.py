"""The ``cograd`` command, one file per subcommand."""

from cograd.cli._main import main as main

__all__ = ["main"]
