"""Check the types of every Python block of the README and of these pages, and of a strict user: ``make check``.

The blocks of a page, one after the other, are a program; mypy and pyright (as basedpyright, which brings its own node)
read it as its reader's editor would. Functions without annotations are taken as they are.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
USER = ROOT / "tests" / "test_strict_use.py"
OUT = ROOT / ".mypy_cache" / "snippets"
BLOCK = re.compile(r"(?:<!-- (?P<note>.*?) -->\n)?```python\n(?P<code>.*?)```", re.DOTALL)
BIN = Path(sys.executable).parent

# What others' stubs get wrong, or a page only appears to do because its blocks stand in one file.
THEIRS = re.compile(
    r'Dataset\[|annotation for "(train|held_out|loader)"'  # torch: a DataLoader takes any sequence
    r"|LightningOptimizer"  # it may be a list
    r'|analyzing "accelerate"'  # without types
)
MYPY = [
    "--strict",
    "--allow-untyped-defs",
    "--allow-untyped-calls",
    "--allow-redefinition",
    "--follow-imports=silent",
    f"--cache-dir={OUT.with_name('snippets-cache')}",
]
PYRIGHT = {
    "typeCheckingMode": "standard",
    "reportRedeclaration": "none",
    "reportPossiblyUnboundVariable": "warning",  # as pyright has it
}


class Found(NamedTuple):
    """One error."""

    file: str
    line: int
    message: str


def main() -> None:
    pages = dict(written())
    (OUT / "pyrightconfig.json").write_text(
        json.dumps(PYRIGHT | {"include": [".", str(USER)], "extraPaths": [str(ROOT / "src")]})
    )
    running = [
        started("mypy", "--output=json", *MYPY, OUT, USER),
        started("basedpyright", "--outputjson", "--pythonpath", sys.executable, "--project", OUT),
    ]
    mypy, pyright = (process.communicate()[0] for process in running)
    found = [*by_mypy(mypy), *by_pyright(pyright)]
    ours = sorted({error for error in found if not THEIRS.search(error.message)})
    for file, line, message in ours:
        print(f"{pages.get(Path(file).name, file)}:{line}: {message}")
    print(f"{len(pages)} pages and {USER.name}: {len(ours)} errors")
    sys.exit(1 if ours else 0)


def written() -> Iterator[tuple[str, str]]:
    """Write each page that has code as a file, line for line; the name of the file -> the page."""
    OUT.mkdir(parents=True, exist_ok=True)
    for old in OUT.glob("*.py"):
        old.unlink()
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        text = page.read_text("utf-8")
        lines = [""] * (text.count("\n") + 1)
        for block in BLOCK.finditer(text):
            if not (block["note"] or "").startswith("raises"):  # those are wrong on purpose
                first = text.count("\n", 0, block.start("code"))
                code = block["code"].splitlines()
                lines[first : first + len(code)] = code
        if any(lines):
            name = str(page.relative_to(ROOT).with_suffix(".py")).replace("/", "_").replace("-", "_")
            (OUT / name).write_text("\n".join(lines) + "\n", "utf-8")
            yield name, str(page.relative_to(ROOT))


def started(tool: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen([str(BIN / tool), *map(str, arguments)], cwd=ROOT, stdout=subprocess.PIPE, text=True)


def by_mypy(output: str) -> Iterator[Found]:
    for line in output.splitlines():
        error = json.loads(line)
        if error["severity"] == "error":
            yield Found(error["file"], error["line"], f"{error['message']} [mypy, {error['code']}]")


def by_pyright(output: str) -> Iterator[Found]:
    for error in json.loads(output)["generalDiagnostics"]:
        if error["severity"] == "error":
            line = error["range"]["start"]["line"] + 1
            yield Found(error["file"], line, f"{error['message']} [pyright, {error.get('rule')}]")


if __name__ == "__main__":
    main()
