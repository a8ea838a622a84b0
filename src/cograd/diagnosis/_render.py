"""A report as text, as JSON and as SARIF."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from cograd.diagnosis._finding import Finding, Related
from cograd.diagnosis._registry import every
from cograd.diagnosis._report import Report

_COLOURS = {"error": "31", "warning": "33", "info": "36", "fix": "32", "bold": "1", "dim": "2"}
_LONG = 60  # longer source lines do not push the notes of the others to the right
_LEVELS = {"error": "error", "warning": "warning", "info": "note"}


def text(report: Report, *, colour: bool = False) -> str:
    """For people."""

    def paint(words: str, style: str) -> str:
        return f"\033[{_COLOURS[style]}m{words}\033[0m" if colour else words

    blocks = []
    for finding in report.findings:
        severity = finding.severity or "info"
        where = f"{_short(finding.site.file)}:{finding.site.line}"
        lines = [f"{paint(severity, severity)}  {paint(finding.rule, 'bold')}  {where}", f"  {finding.message}"]
        story = (*_own_line(finding), *finding.related)
        width = max(len(r.role) for r in story)
        place = max(len(_place(r, finding)) for r in story)
        source = max((len(r.site.source) for r in story if r.note and len(r.site.source) <= _LONG), default=0)
        for r in story:
            note = f"    {paint(r.note, 'dim')}" if r.note else ""
            lines.append(
                f"    {r.role:{width}}  {_place(r, finding):{place}}  {r.site.source:{source if note else 0}}{note}"
            )
        lines.append(f"  {paint('fix', 'fix')}: {finding.fix}")
        blocks.append("\n".join(lines))
    if report.routes:
        blocks.append("\n".join(_routes(report)))
    blocks.append("\n".join([_verdict(report), *(f"not checked: {line}" for line in report.unchecked)]))
    return "\n\n".join(blocks)


def _own_line(finding: Finding) -> tuple[Related, ...]:
    told = any(r.site.line == finding.site.line and r.site.file == finding.site.file for r in finding.related)
    return () if told else (Related("here", finding.site),)


def _place(related: Related, finding: Finding) -> str:
    same = related.site.file == finding.site.file
    return f":{related.site.line}" if same else f"{_short(related.site.file)}:{related.site.line}"


def _routes(report: Report) -> list[str]:
    width = max(len(route.loss) for route in report.routes)
    lines = ["who trains whom"]
    for route in report.routes:
        models = ", ".join(route.models) or "nothing"
        lines.append(f"  {route.loss:{width}}  -> {models}   ({_short(route.file)}:{route.line}, {route.times}x)")
        lines += [f"    not {line}" for line in route.cuts]
    return lines


def _verdict(report: Report) -> str:
    counts = Counter(str(finding.severity) for finding in report.findings)
    words = [f"{counts[s]} {s}{'s' if counts[s] > 1 and s != 'info' else ''}" for s in _LEVELS if counts[s]]
    end = {"raised": ", then the script raised", "interrupted": ", until interrupted", "stopped": ", as asked"}
    steps = f"{report.steps} optimizer step{'' if report.steps == 1 else 's'}"
    after = f"after {steps}{end.get(report.outcome, '')}"
    return f"cograd doctor: {', '.join(words) or 'nothing wrong found'} {after}"


def _short(file: str) -> str:
    try:
        return str(Path(file).resolve().relative_to(Path.cwd()))
    except ValueError:
        return file


def as_dict(report: Report) -> dict[str, Any]:
    """For programs."""
    return {
        "findings": [
            {
                "rule": f.rule,
                "severity": f.severity,
                "file": f.site.file,
                "line": f.site.line,
                "source": f.site.source,
                "message": f.message,
                "related": [_related(r) for r in f.related],
                "fix": f.fix,
            }
            for f in report.findings
        ],
        "routes": [
            {
                "loss": r.loss,
                "file": r.file,
                "line": r.line,
                "models": list(r.models),
                "times": r.times,
                "cuts": list(r.cuts),
            }
            for r in report.routes
        ],
        "steps": report.steps,
        "outcome": report.outcome,
        "unchecked": list(report.unchecked),
    }


def _related(related: Related) -> dict[str, Any]:
    site = related.site
    return {"role": related.role, "file": site.file, "line": site.line, "source": site.source, "note": related.note}


def as_json(report: Report) -> str:
    """One JSON object."""
    return json.dumps(as_dict(report), indent=2)


def as_sarif(report: Report) -> str:
    """For the code scanning of forges and editors."""
    used = sorted({finding.rule for finding in report.findings})
    driver = {
        "name": "cograd doctor",
        "rules": [{"id": name, "shortDescription": {"text": every()[name].summary}} for name in used],
    }
    results = [
        {
            "ruleId": f.rule,
            "level": _LEVELS[f.severity or "info"],
            "message": {"text": f"{f.message} Fix: {f.fix}"},
            "locations": [_location(f.site.file, f.site.line)],
            "relatedLocations": [
                _location(r.site.file, r.site.line) | {"message": {"text": f"{r.role}: {r.note}"}} for r in f.related
            ],
        }
        for f in report.findings
    ]
    run = {"tool": {"driver": driver}, "results": results}
    return json.dumps({"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2)


def _location(file: str, line: int) -> dict[str, Any]:
    return {"physicalLocation": {"artifactLocation": {"uri": _short(file)}, "region": {"startLine": max(line, 1)}}}


_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
