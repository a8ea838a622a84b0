"""One thing that is wrong, where, why, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cograd.tracing import Site

Severity = Literal["error", "warning", "info"]


@dataclass(frozen=True, slots=True)
class Related:
    """A line that is part of the story.

    Attributes:
        role: what it is there, such as ``forward``, ``step``, ``backward``.
        site: where.
        note: what it did.
    """

    role: str
    site: Site
    note: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """What a rule found.

    Attributes:
        site: the line that has to change.
        message: one sentence in the names of the script.
        fix: what to do.
        related: the other lines of the story, in the order in which they ran.
        rule: the rule's name; filled in by the registry.
        severity: how bad it is; filled in by the registry unless the rule says otherwise.
    """

    site: Site
    message: str
    fix: str
    related: tuple[Related, ...] = ()
    rule: str = ""
    severity: Severity | None = None
