"""``cograd doctor``: what is wrong with the gradients of a script."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from cograd.cli._parser import CommandError, subcommand
from cograd.cli._parser import parser as make_parser


def add(commands: Any, name: str) -> ArgumentParser:
    """Add the command."""
    doctor = subcommand(commands, name, make_parser(_ABOUT), "say what is wrong with the gradients of a script")
    doctor.add_argument("--json", action="store_true", help="print the report as JSON; the script prints to stderr")
    doctor.add_argument("--sarif", action="store_true", help="print the report as SARIF; the script prints to stderr")
    doctor.add_argument("--output", metavar="FILE", help="write the report to FILE, as JSON, or as SARIF with --sarif")
    doctor.add_argument("--steps", type=int, metavar="N", help="stop the script after N optimizer steps")
    doctor.add_argument("--why", action="store_true", help="for each loss, where gradients are cut, also on purpose")
    doctor.add_argument("--perf", action="store_true", help="also report work that is done and thrown away")
    doctor.add_argument("--select", action="append", metavar="RULE", help="only this rule; may be repeated")
    doctor.add_argument("--ignore", action="append", metavar="RULE", help="not this rule; may be repeated")
    doctor.add_argument("--baseline", metavar="FILE", help="leave out what an earlier report, in JSON, has found")
    doctor.add_argument("--list-rules", action="store_true", help="name every rule, and run nothing")
    doctor.add_argument("--explain", metavar="RULE", help="what a rule finds, and why that is bad")
    doctor.add_argument("-m", dest="module", action="store_true", help="SCRIPT is the name of a module")
    doctor.add_argument("script", nargs="?", metavar="SCRIPT", help="the script to run, unchanged")
    doctor.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="arguments of the script")
    return doctor


def run(arguments: Namespace) -> int:
    """Run the script, print what was found, and give the exit code."""
    from cograd import diagnosis

    if arguments.list_rules:
        width = max(map(len, diagnosis.every()))
        for rule in diagnosis.every().values():
            print(f"{rule.severity:8} {rule.name:{width}}  {rule.summary}")
        return 0
    if arguments.explain is not None:
        rule = diagnosis.every()[diagnosis.known([arguments.explain])[0]]
        print(f"{rule.name} ({rule.severity})\n\n{rule.page}")
        return 0

    select, ignore = diagnosis.known(arguments.select or []), diagnosis.known(arguments.ignore or [])
    baseline = None if arguments.baseline is None else diagnosis.read_baseline(Path(arguments.baseline))
    _check(arguments)
    machine = arguments.json or arguments.sarif
    words: Sequence[str] = arguments.arguments or ()
    ran = diagnosis.run(
        arguments.script, words, module=arguments.module, steps=arguments.steps,
        stdout=sys.stderr if machine else None, timed=arguments.perf,
    )  # fmt: skip
    report = diagnosis.diagnose(
        ran, select=select, ignore=ignore, baseline=baseline, why=arguments.why, perf=arguments.perf
    )
    written = diagnosis.as_sarif(report) if arguments.sarif else diagnosis.as_json(report)
    if arguments.output is not None:
        _write(Path(arguments.output), written)
    if machine:
        print(written)
    else:
        _say(diagnosis.text(report, colour=_colour()))
    return 1 if report.failed else ran.code


def _check(arguments: Namespace) -> None:
    if arguments.script is None:
        raise CommandError("doctor needs a script. Type: cograd doctor train.py")
    if not arguments.module and not Path(arguments.script).is_file():
        raise CommandError(
            f"There is no script {arguments.script}. Give the path of a Python file, or -m and a module."
        )
    if arguments.steps is not None and arguments.steps < 1:
        raise CommandError(f"--steps {arguments.steps}: needs a number of at least 1.")
    if arguments.output is not None and not Path(arguments.output).resolve().parent.is_dir():
        raise CommandError(f"--output {arguments.output}: there is no such folder. Make it, or choose another place.")


def _write(path: Path, written: str) -> None:
    try:
        path.write_text(written + "\n", encoding="utf-8")
    except OSError as error:
        raise CommandError(f"Cannot write {path} ({error.strerror}). Choose another place.") from error


def _say(text: str) -> None:
    """Print what quotes the script, also where the terminal lacks its letters."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding))


def _colour() -> bool:
    return "NO_COLOR" not in os.environ and sys.stdout.isatty()


_ABOUT = """
Run a training script, unchanged, and say which of its gradients are wrong, at which line, and what to do.
The results of the script are the same to the last bit. Options of doctor stand before the script.

The exit code is 1 if there are errors or warnings, 2 if doctor could not run as asked, else the script's own.

Example:  cograd doctor --steps 50 train.py --epochs 3
"""
