"""Write a page for each rule of ``cograd doctor``, and their list, from the docstrings: ``python docs/rules.py``."""

import re
from pathlib import Path

from cograd import diagnosis

FOLDER = Path(__file__).parent / "rules"
SECTIONS = {"What it does:": "text", "Why it is bad:": "text", "Example:": "code", "Use instead:": "code"}
MADE = "<!-- Made by `python docs/rules.py` from the docstrings in src/cograd/diagnosis/rules/. -->"


def pages() -> dict[str, str]:
    """The text of each file in ``docs/rules``, by its name."""
    return {"README.md": _list()} | {f"{rule.name}.md": _page(rule) for rule in diagnosis.every().values()}


def _list() -> str:
    rows = [
        f"| [{rule.name}]({rule.name}.md) | {rule.severity} | {_markdown(rule.summary).replace('|', chr(92) + '|')} |"
        for rule in diagnosis.every().values()
    ]
    return "\n".join(
        [
            MADE,
            "",
            "# The rules of `cograd doctor`",
            "",
            "`cograd doctor --list-rules` prints this table, and `cograd doctor --explain RULE` one of its pages.",
            "Errors and warnings make the exit code 1; an info does not.",
            "",
            "| rule | severity | what it finds |",
            "|---|---|---|",
            *rows,
            "",
        ]
    )


def _page(rule: diagnosis.Rule) -> str:
    lines = [MADE, "", f"# {rule.name}", "", f"Severity: {rule.severity}. [All rules](README.md)."]
    for paragraph in re.split(r"\n\n(?=\S)", rule.page):
        title, _, body = paragraph.partition("\n")
        kind = SECTIONS.get(title)
        if kind is None:
            lines += ["", _markdown(paragraph)]
            continue
        body = "\n".join(line.removeprefix("    ") for line in body.splitlines())
        lines += ["", f"## {title.removesuffix(':')}", ""]
        lines += ["```py", body, "```"] if kind == "code" else [_markdown(body)]
    return "\n".join(lines) + "\n"


def _markdown(text: str) -> str:
    return re.sub(r"``(.+?)``", r"`\1`", text)


def write() -> None:
    """Write all pages, and remove those of rules that are gone."""
    FOLDER.mkdir(exist_ok=True)
    made = pages()
    for path in FOLDER.glob("*.md"):
        if path.name not in made:
            path.unlink()
    for name, text in made.items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write()
