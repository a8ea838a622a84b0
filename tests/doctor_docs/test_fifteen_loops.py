"""The page on fifteen loops quotes what the doctor says of each, and the sound ones are left in peace."""

import runpy
from pathlib import Path

import pytest

from cograd import diagnosis

ROOT = Path(__file__).parents[2]
LOOPS = runpy.run_path(str(ROOT / "docs" / "loops.py"))
QUOTES = list(LOOPS["QUOTED"].finditer(LOOPS["PAGE"].read_text(encoding="utf-8")))
FOUND = {
    "02_gan.py": [("step-before-backward", 26)],
    "12_agreement.py": [("non-scalar-backward", 17)],
    "15_normalised.py": [("constant-loss", 17), ("constant-loss", 18)],
}


@pytest.mark.parametrize("quote", QUOTES, ids=lambda quote: f"{quote['perf'] or ''}{Path(quote['script']).stem}")
def test_the_page_quotes_what_the_doctor_says(quote, monkeypatch):
    monkeypatch.chdir(ROOT)
    report = LOOPS["examine"](quote["script"], bool(quote["perf"]))
    found = [(f.rule, f.site.line) for f in report.findings if f.severity in ("error", "warning")]
    assert found == FOUND.get(Path(quote["script"]).name, [])
    assert quote[0] == quote[1] + diagnosis.text(report) + "\n", "Type: python docs/loops.py, and read what changed"


def test_the_page_has_all_fifteen_in_order():
    scripts = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs" / "fifteen_loops").glob("*.py"))
    assert len(scripts) == 15
    assert list(dict.fromkeys(quote["script"] for quote in QUOTES)) == scripts
