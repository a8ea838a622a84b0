"""Where in the user's own code something happened: file, line, and the expression being evaluated."""

from __future__ import annotations

import ast
import linecache
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from types import CodeType, FrameType

import torch

_TORCH = str(Path(torch.__file__).parent)
_COGRAD = str(Path(__file__).parents[1])
_LIBRARIES = tuple({sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib")})
_CALLS = 6  # of the user's functions around a place that are looked at
_PARTS = ("optim", "distributions", "checkpoint", "amp")  # of torch, that a finding may have to name


@dataclass(frozen=True, slots=True)
class Site:
    """A place in the user's code.

    Attributes:
        file: its path, as the interpreter knows it.
        line: counted from 1.
        source: that line, without indentation.
        text: the expression being evaluated there, on one line.
        function: the function around it, ``<module>`` at the top.
        via: the part of torch between this place and what happened, such as ``optim``; else empty.
    """

    file: str
    line: int
    source: str
    text: str
    function: str
    via: str = ""

    def __hash__(self) -> int:
        return hash((self.file, self.line, self.text))

    @property
    def place(self) -> str:
        """File and line, the file as seen from the working directory."""
        return f"{_seen_from_here(self.file)}:{self.line}"

    @property
    def receiver(self) -> str:
        """What a method is called on: ``opt_d`` in ``opt_d.step()``; empty if it is no method call."""
        call = self.expression
        return (
            ast.unparse(call.func.value) if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) else ""
        )

    @property
    def expression(self) -> ast.expr | None:
        """What is being evaluated; None if it cannot be parsed."""
        return _expression(self.text)

    @property
    def target(self) -> str:
        """The name that the statement on this line assigns to; empty if there is none."""
        statement = _statements(self.file).get(self.line)
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], (ast.Name, ast.Attribute)):
            return ast.unparse(statement.targets[0])
        if isinstance(statement, (ast.AugAssign, ast.AnnAssign)):
            return ast.unparse(statement.target)
        return ""

    @property
    def statement(self) -> str:
        """The statement around this place, on one line, or the line where there is no syntax tree."""
        statement = _statements(self.file).get(self.line)
        text = None if statement is None else ast.get_source_segment("".join(linecache.getlines(self.file)), statement)
        return " ".join(text.split()) if text else self.source


def statement_at(site: Site) -> ast.stmt | None:
    """The smallest statement around a place; None where there is no syntax tree."""
    return _statements(site.file).get(site.line)


NOWHERE = Site("", 0, "", "", "")


def _seen_from_here(file: str) -> str:
    try:
        return str(Path(file).resolve().relative_to(Path.cwd()))
    except ValueError:
        return file


@cache
def _kind(file: str) -> str | None:
    """None for the user's own file, else the part of torch that the file is, or an empty string."""
    if file.startswith(_TORCH):
        return next((part for part in _PARTS if f"/{part}" in file[len(_TORCH) :]), "")
    if file.startswith((_COGRAD, "<frozen")) or (file.startswith("<") and not linecache.getlines(file)):
        return ""
    return "" if any(file.startswith(folder) for folder in _LIBRARIES) else None


def user_frame(frame: FrameType | None = None) -> tuple[FrameType | None, str]:
    """The innermost frame in the user's own code, and the part of torch it was left through."""
    via = ""
    frame = frame or sys._getframe(1)
    at: FrameType | None = frame
    while at is not None:
        kind = _kind(at.f_code.co_filename)
        if kind is None:
            return at, via
        via = via or kind
        at = at.f_back
    return None, via


def frames_and_sites(frame: FrameType | None) -> Iterator[tuple[FrameType, Site]]:
    """All frames in the user's own code from ``frame`` on, innermost first, and what each of them evaluates."""
    while frame is not None:
        if _kind(frame.f_code.co_filename) is None:
            yield frame, _site(frame.f_code, frame.f_lasti, frame.f_lineno, "")
        frame = frame.f_back


def user_frames() -> list[FrameType]:
    """All frames in the user's own code, innermost first."""
    found = []
    at: FrameType | None = sys._getframe(1)
    while at is not None:
        if _kind(at.f_code.co_filename) is None:
            found.append(at)
        at = at.f_back
    return found


def here() -> Site:
    """The place in the user's code that is being executed."""
    frame, via = user_frame(sys._getframe(1))
    return NOWHERE if frame is None else _site(frame.f_code, frame.f_lasti, frame.f_lineno, via)


def is_user_file(file: str) -> bool:
    """Whether a file is the user's own."""
    return _kind(file) is None


def is_user(frame: FrameType) -> bool:
    """Whether a frame is in the user's own code."""
    return _kind(frame.f_code.co_filename) is None


_COMPREHENSIONS = frozenset({"<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>"})


def comprehension_names(code: CodeType) -> frozenset[str] | None:
    """Names that are variables of comprehensions and of nothing else in the file; None for a comprehension's code."""
    return None if code.co_name in _COMPREHENSIONS else _only_in_comprehensions(code.co_filename)


@cache
def _only_in_comprehensions(file: str) -> frozenset[str]:
    try:
        tree = ast.parse("".join(linecache.getlines(file)))
    except SyntaxError:
        return frozenset()
    passing = [n.target for n in ast.walk(tree) if isinstance(n, ast.comprehension)]
    inside = {id(n) for target in passing for n in ast.walk(target)}
    bound = [n for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
    arguments = {n.arg for n in ast.walk(tree) if isinstance(n, ast.arg)}
    lasting = {n.id for n in bound if id(n) not in inside} | arguments
    return frozenset(n.id for n in bound if id(n) in inside) - lasting


def callers() -> tuple[Site, ...]:
    """The calls in the user's own code that led to the place that is being executed, the innermost first."""
    frame, _ = user_frame(sys._getframe(1))
    outer = None if frame is None else frame.f_back
    return tuple(site for _, site in islice(frames_and_sites(outer), _CALLS))


def of_traceback(error: BaseException) -> Site:
    """The innermost place in the user's code that ``error`` passed through."""
    found, at = NOWHERE, error.__traceback__
    while at is not None:
        if _kind(at.tb_frame.f_code.co_filename) is None:
            found = _site(at.tb_frame.f_code, at.tb_lasti, at.tb_lineno, "")
        at = at.tb_next
    return found


@cache
def _site(code: CodeType, instruction: int, line: int, via: str) -> Site:
    file = code.co_filename
    source = linecache.getline(file, line).strip()
    position = next(islice(code.co_positions(), instruction // 2, None), None)
    return Site(file, line, source, _segment(file, position) or source, code.co_name, via)


def _segment(file: str, position: tuple[int | None, int | None, int | None, int | None] | None) -> str:
    if position is None or None in position:
        return ""
    first, last, begin, end = (number or 0 for number in position)
    lines = [linecache.getline(file, number).encode() for number in range(first, last + 1)]
    if not lines:
        return ""
    lines[-1] = lines[-1][:end]
    lines[0] = lines[0][begin:]
    return " ".join(b" ".join(lines).decode(errors="replace").split())


def _expression(text: str) -> ast.expr | None:
    try:
        return ast.parse(text, mode="eval").body
    except SyntaxError:
        return None


@cache
def _statements(file: str) -> dict[int, ast.stmt]:
    """Line -> the smallest statement that covers it."""
    try:
        tree = ast.parse("".join(linecache.getlines(file)))
    except SyntaxError:
        return {}
    found: dict[int, ast.stmt] = {}
    for node in ast.walk(tree):  # outer statements come first
        if isinstance(node, ast.stmt):
            compound = hasattr(node, "body")
            last = node.lineno if compound else node.end_lineno or node.lineno
            for line in range(node.lineno, last + 1):
                found[line] = node
    return found
