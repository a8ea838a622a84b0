"""The pages of the rules are what ``docs/rules.py`` makes of the docstrings now."""

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "rules"


def test_the_pages_are_those_of_the_docstrings():
    made = runpy.run_path(str(ROOT / "docs" / "rules.py"))["pages"]()
    there = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*")}
    differ = sorted(name for name in made.keys() | there.keys() if made.get(name) != there.get(name))
    assert not differ, f"docs/rules: {', '.join(differ)} differ from the docstrings. Type: python docs/rules.py"
