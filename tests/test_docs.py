"""Every Python block of the README and of the documentation runs, and prints what the page says."""

from __future__ import annotations

import contextlib
import io
import linecache
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"(?:<!-- (?P<note>.*?) -->\n)?```(?P<language>\w*)\n(?P<code>.*?)```", re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_run_in_order(page: Path) -> None:
    names: dict[str, object] = {}
    printed = ""
    for block in BLOCK.finditer(page.read_text()):
        note, language, code = block["note"] or "", block["language"], block["code"]
        if language == "python":
            out = io.StringIO()
            expected = note.removeprefix("raises ").split(": ") if note.startswith("raises ") else None
            file = note.removeprefix("file ") if note.startswith("file ") else page.name
            if file != page.name:  # what is printed there names lines of this block
                linecache.cache[file] = len(code), None, code.splitlines(keepends=True), file
            with contextlib.redirect_stdout(out):
                if expected:
                    with pytest.raises(Exception, match=expected[1]) as caught:
                        exec(compile(code, file, "exec"), names)
                    assert caught.type.__name__ == expected[0]
                else:
                    exec(compile(code, file, "exec"), names)
            printed = out.getvalue()
        elif note == "prints":
            assert code.strip() in printed


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_exist(page: Path) -> None:
    """What a page tells the reader to run, such as what measures its figures."""
    text = page.read_text()
    targets = (ROOT / "Makefile").read_text()
    for name in re.findall(r"`make (\w+)", text):
        assert f"\n{name}:" in targets, name
    for module in re.findall(r"python -m (benchmarks[\w.]*)", text):
        path = ROOT.joinpath(*module.rstrip(".").split("."))
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module
    for path in re.findall(r"(?:python|pytest|cograd \w+) ((?:examples|tests|benchmarks|docs)/[\w/.]+)", text):
        assert (ROOT / path.rstrip(".")).exists(), path


def test_the_architecture_has_the_rows_of_the_import_contract() -> None:
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    table = (ROOT / "docs" / "architecture.md").read_text().split("| files | concept |")[1]
    rows = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    named = [{re.sub(r"/|\.py$", "", file) for file in re.findall(r"`(\S+)`", row)} for row in rows]
    assert named == [set(layer.split(" | ")) for layer in contract["layers"]]
