"""Scripts written against the doctor: correct ones are left as they are and in peace, and faults are named."""

import gc
import hashlib
import io
import runpy
import subprocess
import sys
import warnings
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from cograd import diagnosis
from cograd.cli import main

HERE = Path(__file__).parent
CORRECT = sorted((HERE / "correct").glob("*.py"))
FAULTY = sorted((HERE / "faulty").glob("*.py"))


def results(path, doctored):
    """What a script prints, every value that its optimizers ever wrote, and the generator; and the report."""
    written = hashlib.sha256()

    def after(optimizer, _args, _kwargs):
        with torch._C.DisableTorchFunction():
            for group in optimizer.param_groups:
                for p in group["params"]:
                    written.update(p.detach().cpu().contiguous().numpy().tobytes())

    register_optimizer_step_post_hook(after)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    out = io.StringIO()
    with redirect_stdout(out), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ran = diagnosis.run(str(path)) if doctored else runpy.run_path(str(path), run_name="__main__")
    written.update(torch.get_rng_state().numpy().tobytes())
    found = {"out": out.getvalue(), "written": written.hexdigest()}
    if not doctored:
        return found
    report = diagnosis.diagnose(ran)
    bad = [f for f in report.findings if f.severity != "info"]
    lines = [[f.rule, Path(f.site.file).name, f.site.line] for f in bad]
    return found | {"bad": lines, "unchecked": list(report.unchecked), "text": diagnosis.text(report), "code": ran.code}


@pytest.mark.parametrize("path", CORRECT, ids=lambda path: path.stem)
def test_a_correct_script_runs_as_without_the_doctor_and_is_left_in_peace(path, fork):
    plain, doctored = fork(results, path, False), fork(results, path, True)
    assert doctored["code"] == 0
    assert {key: doctored[key] for key in plain} == plain
    assert doctored["bad"] == [], doctored["text"]
    assert doctored["unchecked"] == []


@pytest.mark.parametrize("path", FAULTY, ids=lambda path: path.stem)
def test_a_fault_is_named_with_its_line(path, fork):
    report = fork(results, path, True)
    line, rule = next(
        (n, text.partition("# <- ")[2])
        for n, text in enumerate(path.read_text().splitlines(), 1)
        if "# <- " in text
    )  # fmt: skip
    assert report["bad"] == [[rule, path.name, line]], report["text"]


def spoken(words, out):
    """What the command prints on a stream of this kind, and its exit code."""
    stream = io.TextIOWrapper(out, encoding="ascii", write_through=True)
    with redirect_stdout(stream):
        try:
            code = main(words)
        except SystemExit as stop:
            code = stop.code
    return {"code": code, "out": out.getvalue().decode("ascii")}


STEPS = """
import sys
import torch

w = torch.zeros(2, requires_grad=True)
optimizer = torch.optim.SGD([w], lr=0.1)
for i in range(5):
    optimizer.zero_grad()
    (w - 1).pow(2).sum().backward()
    optimizer.step()
"""


@pytest.mark.parametrize(
    ("end", "code"),
    [("sys.exit()", 0), ("sys.exit(0)", 0), ("sys.exit(7)", 7), ("sys.exit('no')", 1), ("raise KeyboardInterrupt", 130),
     ("raise OSError('x')", 1), ("import nothing_of_that_name", 1)],
)  # fmt: skip
def test_the_exit_code_is_that_of_the_script(end, code, script, command):
    result = command("doctor", script(STEPS + end))
    assert result["code"] == code
    assert "after 5 optimizer steps" in result["out"]


@pytest.mark.parametrize("text", ["def broken(:\n    pass\n", "x = '\n", "    import torch\nx\n"])
def test_a_script_that_is_no_python_fails_as_python_does(text, script, command):
    result = command("doctor", script(text))
    assert result["code"] == 1
    assert "SyntaxError" in result["err"] or "IndentationError" in result["err"]


def test_a_terminal_that_knows_ascii_only(script, fork):
    text = STEPS.replace("(w - 1).pow(2).sum()", "größe").replace(
        "    optimizer.zero", "    größe = w.sum() / w.sum()\n    opt.zero"
    )
    answer = fork(spoken_ascii, str(script(text.replace("opt.zero", "optimizer.zero"))))
    assert answer["code"] == 1
    assert "gr\\xf6\\xdfe" in answer["out"]


def spoken_ascii(path):
    return spoken(["doctor", path], io.BytesIO())


def test_a_closed_stdin_and_a_pipe(script):
    path = script(STEPS + "print(sys.stdin.read() if sys.stdin else None)\n")
    words = [sys.executable, "-m", "cograd", "doctor", "--json", str(path)]
    ran = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=60)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith(b"{\n")
    assert b"\033[" not in ran.stdout


def test_memory_stays_flat(script, fork):
    long = STEPS.replace("range(5)", "range(10_000)")
    assert fork(grown, str(script(long))) < 2000


def grown(path):
    """How many more blocks of memory Python holds after 10,000 iterations than after 1,000."""
    seen = {}

    def after(_optimizer, _args, _kwargs):
        calls = seen["calls"] = seen.get("calls", 0) + 1
        if calls in (1000, 9990):
            gc.collect()
            seen[calls] = sys.getallocatedblocks()

    register_optimizer_step_post_hook(after)
    diagnosis.run(path)
    return seen[9990] - seen[1000]
