"""Put into ``docs/fifteen-loops.md`` what the doctor says of each script now: ``python docs/loops.py``."""

import io
import os
import re
import warnings
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from cograd import diagnosis

PAGE = Path(__file__).parent / "fifteen-loops.md"
QUOTED = re.compile(r"(```sh\ncograd doctor (?P<perf>--perf )?(?P<script>\S+)\n```\n\n```text\n).*?(?=```)", re.DOTALL)


def examine(script: str, perf: bool = False) -> diagnosis.Report:
    """The report on a script, whose path is given as seen from the root; what it prints itself is dropped."""
    os.chdir(PAGE.parents[1])
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return diagnosis.diagnose(diagnosis.run(script), perf=perf)


def quoted(page: str) -> str:
    """The page, with each report as it is now."""
    return QUOTED.sub(lambda m: m[1] + diagnosis.text(examine(m["script"], bool(m["perf"]))) + "\n", page)


if __name__ == "__main__":
    PAGE.write_text(quoted(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
