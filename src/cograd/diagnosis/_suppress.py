"""What the user does not want to hear: comments in the script, and a baseline of known findings."""

from __future__ import annotations

import json
import linecache
import re
from pathlib import Path

from cograd.diagnosis._finding import Finding
from cograd.errors import DiagnosisError

_COMMENT = re.compile(r"#\s*cograd:\s*ignore(?:\[(?P<rules>[\w\-,\s]*)\])?")


def suppressed(finding: Finding) -> bool:
    """Whether the line of the finding, or the comment line above it, says ``# cograd: ignore[rule]``."""
    above = linecache.getline(finding.site.file, finding.site.line - 1)
    lines = [linecache.getline(finding.site.file, finding.site.line)]
    if above.lstrip().startswith("#"):
        lines.append(above)
    for line in lines:
        comment = _COMMENT.search(line)
        if comment:
            rules = comment["rules"]
            if rules is None or finding.rule in [rule.strip() for rule in rules.split(",")]:
                return True
    return False


def read_baseline(path: Path) -> set[tuple[str, str, str]]:
    """The findings of an earlier report in JSON: rule, name of the file, source line.

    Raises:
        DiagnosisError: there is no such report.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["findings"]
        return {(entry["rule"], Path(entry["file"]).name, entry["source"]) for entry in entries}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DiagnosisError(
            f"--baseline {path}: not a report that cograd doctor wrote ({error}). Make one with --output {path}"
        ) from error


def fingerprint(finding: Finding) -> tuple[str, str, str]:
    """What a baseline knows a finding by. A line number changes too easily."""
    return finding.rule, Path(finding.site.file).name, finding.site.source
