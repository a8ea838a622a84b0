"""Which rules there are, and what they found in a log."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from functools import cache

from cograd.diagnosis import rules as _package
from cograd.diagnosis._finding import Finding, Severity
from cograd.errors import DiagnosisError, report, unknown
from cograd.tracing import Log

_RANK = {"error": 0, "warning": 1, "info": 2}


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule: the module of its name.

    Attributes:
        name: as in reports.
        severity: of its findings, unless one says otherwise.
        check: from a log to findings.
        page: its documentation.
        covers: rules that stay silent about a line where this one spoke.
        perf: whether it is about time, and asked for with ``--perf``.
        follows: whether it needs the record of operations, or else may miss what it is to find.
    """

    name: str
    severity: Severity
    check: Callable[[Log], Iterator[Finding]]
    page: str
    covers: tuple[str, ...]
    perf: bool
    follows: bool

    @property
    def summary(self) -> str:
        """The first line of its page."""
        return self.page.partition("\n")[0]


@cache
def every() -> dict[str, Rule]:
    """All rules by name, in alphabetical order."""
    found = {}
    for info in pkgutil.iter_modules(_package.__path__):
        if info.name.startswith("_"):
            continue
        module = importlib.import_module(f"{_package.__name__}.{info.name}")
        name = info.name.replace("_", "-")
        page = inspect.cleandoc(module.__doc__ or "")
        covers, perf, follows = getattr(module, "COVERS", ()), hasattr(module, "PERF"), hasattr(module, "FOLLOWS")
        found[name] = Rule(name, module.SEVERITY, module.check, page, covers, perf, follows)
    return found


def known(names: Collection[str]) -> list[str]:
    """``names``, if each is that of a rule.

    Raises:
        DiagnosisError: some are not.
    """
    wrong = [f"There is no rule {n!r}. {unknown('rules', n, every())}" for n in names if n not in every()]
    if wrong:
        raise DiagnosisError(report(wrong))
    return list(names)


def findings(
    log: Log, select: Collection[str] = (), ignore: Collection[str] = (), *, perf: bool = False
) -> list[Finding]:
    """What the rules find in ``log``, the worst first. One cause is one finding.

    Args:
        log: of a run.
        select: only these rules; all if empty.
        ignore: not these.
        perf: also those that are about time.
    """
    found: list[Finding] = []
    for rule in every().values():
        if rule.perf and not (perf or rule.name in select):
            continue
        try:
            found += [replace(f, rule=rule.name, severity=f.severity or rule.severity) for f in rule.check(log)]
        except Exception as error:
            log.failures.append(f"rule {rule.name} failed with {type(error).__name__}: {error}")
    found = _one_per_cause(found)
    found = [f for f in found if (not select or f.rule in select) and f.rule not in ignore]
    return sorted(found, key=lambda f: (_RANK[f.severity or "info"], f.site.file, f.site.line, f.rule))


def _one_per_cause(found: list[Finding]) -> list[Finding]:
    first: dict[tuple[str, str, int], Finding] = {}
    for finding in found:
        first.setdefault((finding.rule, finding.site.file, finding.site.line), finding)
    kept = list(first.values())
    covered = {
        (name, f.site.file, line)
        for f in kept
        for name in every()[f.rule].covers
        for line in (f.site.line, *(r.site.line for r in f.related if r.site.file == f.site.file))
    }
    return [f for f in kept if (f.rule, f.site.file, f.site.line) not in covered]
