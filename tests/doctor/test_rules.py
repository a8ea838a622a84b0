"""For each rule a script with the fault, whose line is named, and a twin without, about which nothing is said."""

from pathlib import Path

import pytest

from cograd import diagnosis

SCRIPTS = Path(__file__).parent / "scripts"
FAULTY = sorted((SCRIPTS / "faulty").glob("*.py"))
CORRECT = sorted((SCRIPTS / "correct").glob("*.py"))


def rule_of(path):
    """The longest rule that the name of the script begins with."""
    name = path.stem.replace("_", "-")
    return max((rule for rule in diagnosis.every() if name.startswith(rule)), key=len)


def here(path):
    return next(n for n, line in enumerate(path.read_text().splitlines(), 1) if line.endswith("# <- here"))


@pytest.mark.parametrize("path", FAULTY, ids=lambda path: path.stem)
def test_a_fault_is_named_with_its_line_and_nothing_else_is(path, examine):
    report = examine(path)
    rule = rule_of(path)
    found = [(f["rule"], f["line"]) for f in report["findings"] if f["severity"] != "info" or f["rule"] == rule]
    assert found == [(rule, here(path))], report["text"] + report["err"]
    assert report["unchecked"] == []


@pytest.mark.parametrize("path", CORRECT, ids=lambda path: path.stem)
def test_a_correct_script_is_left_in_peace(path, examine):
    report = examine(path)
    rule = rule_of(path)
    found = [f for f in report["findings"] if f["severity"] != "info" or f["rule"] == rule]
    assert found == [], report["text"]
    assert report["unchecked"] == []
    assert report["code"] == 0, report["err"]


def test_every_rule_has_a_faulty_and_a_correct_script():
    for folder in (FAULTY, CORRECT):
        assert {rule_of(path) for path in folder} == set(diagnosis.every())
    assert [path.name for path in FAULTY] == [path.name for path in CORRECT]


@pytest.mark.parametrize("rule", diagnosis.every().values(), ids=lambda rule: rule.name)
def test_every_rule_has_a_page(rule):
    for section in ("What it does:", "Why it is bad:", "Example:", "Use instead:"):
        assert section in rule.page
    assert rule.summary.endswith(".")
