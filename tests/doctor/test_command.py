"""``cograd doctor`` as a user types it: exit codes, arguments, forms of the report, what is left out of it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cograd import diagnosis

SCRIPTS = Path(__file__).parent / "scripts"
FAULTY, CORRECT = SCRIPTS / "faulty" / "broadcast_loss.py", SCRIPTS / "correct" / "broadcast_loss.py"
LOOP = """
import sys, torch
from torch import nn
net = nn.Linear(3, 1)
optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
for i in range({n}):
    optimizer.zero_grad()
    loss = net(torch.ones(4, 3)).square().mean()
    loss.backward()
    optimizer.step()
"""


def test_a_fault_is_exit_code_1_and_a_clean_bill_0(command):
    assert command("doctor", FAULTY)["code"] == 1
    clean = command("doctor", CORRECT)
    assert clean["code"] == 0
    assert "nothing wrong found after 5 optimizer steps" in clean["out"]
    assert "loss  -> net" in clean["out"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["doctor"], "cograd doctor train.py"),
        (["doctor", "nowhere.py"], "There is no script nowhere.py"),
        (["doctor", "--steps", "0", str(CORRECT)], "at least 1"),
        (["doctor", "--select", "freed-grph", str(CORRECT)], "Did you mean 'freed-graph'?"),
        (["doctor", "--explain", "nothing"], "There is no rule 'nothing'"),
        (["doctor", "--baseline", str(CORRECT), str(CORRECT)], "not a report"),
        (["doctor", "--output", "/no/such/folder/file", str(CORRECT)], "no such folder"),
    ],
    ids=["no script", "missing", "steps", "rule", "explain", "baseline", "output"],
)
def test_wrong_usage_is_exit_code_2(words, said, command):
    result = command(*words)
    assert result["code"] == 2
    assert said in result["err"]


def test_the_script_finds_its_own_arguments_and_file(script, command):
    path = script("import sys\nprint(sys.argv[1:], __file__, __name__)\nimport neighbour\nsys.exit(7)\n")
    script("print('hello')\n", name="neighbour.py")
    result = command("doctor", path, "--epochs", "3", "--json", "x")
    assert result["out"].startswith(f"['--epochs', '3', '--json', 'x'] {path} __main__\nhello\n")
    assert result["code"] == 7


@pytest.mark.parametrize(("argument", "code"), [("", 0), ("None", 0), ("'a message'", 1), ("3", 3)])
def test_the_exit_code_of_the_script_is_kept(argument, code, script, command):
    result = command("doctor", script(f"import sys\nsys.exit({argument})\n"))
    assert result["code"] == code
    assert ("a message" in result["err"]) == ("message" in argument)


def test_a_module_runs_with_m(script, command, tmp_path, monkeypatch):
    script("print(__name__)\n", name="some_module.py")
    monkeypatch.chdir(tmp_path)
    result = command("doctor", "-m", "some_module")
    assert result["out"].startswith("__main__\n")
    assert result["code"] == 0


def test_json_is_one_object_on_stdout_and_the_script_prints_to_stderr(command):
    path = SCRIPTS / "faulty" / "step_before_backward.py"
    result = command("doctor", "--json", path)
    report = json.loads(result["out"])
    (finding,) = report["findings"]
    assert {"rule", "severity", "file", "line", "message", "related", "fix"} <= finding.keys()
    assert [related["role"] for related in finding["related"]] == ["forward", "step", "backward"]
    assert all({"role", "line", "source"} <= related.keys() for related in finding["related"])
    assert finding["related"][1]["source"].startswith("opt_probe.step()")
    assert report["routes"][0]["models"] == ["probe"]
    assert result["code"] == 1
    assert "Traceback (most recent call last)" in result["err"]
    assert "modified by an inplace operation" in result["err"]
    assert "cograd" not in result["err"].replace(str(path), "")


def test_the_report_goes_to_a_file_and_serves_as_baseline(command, tmp_path):
    target = tmp_path / "report.json"
    assert command("doctor", "--output", target, FAULTY)["code"] == 1
    assert json.loads(target.read_text())["findings"][0]["rule"] == "broadcast-loss"
    assert command("doctor", "--baseline", target, FAULTY)["code"] == 0


def test_sarif(command):
    run = json.loads(command("doctor", "--sarif", FAULTY)["out"])["runs"][0]
    assert run["results"][0]["ruleId"] == "broadcast-loss"
    assert run["results"][0]["locations"][0]["physicalLocation"]["region"]["startLine"] > 1
    assert run["tool"]["driver"]["rules"][0]["id"] == "broadcast-loss"


def test_rules_are_selected_and_ignored(command):
    assert command("doctor", "--select", "broadcast-loss", FAULTY)["code"] == 1
    assert command("doctor", "--select", "freed-graph", FAULTY)["code"] == 0
    assert command("doctor", "--ignore", "broadcast-loss", FAULTY)["code"] == 0


@pytest.mark.parametrize(
    ("comment", "code"), [("# cograd: ignore[broadcast-loss]", 0), ("# cograd: ignore", 0), ("# cograd: ignore[x]", 1)]
)
def test_a_comment_in_the_script_suppresses_a_finding(comment, code, script, command):
    text = FAULTY.read_text()
    assert command("doctor", script(text.replace("# <- here", comment)))["code"] == code
    above = text.replace("    error =", f"    {comment}\n    error =")
    assert command("doctor", script(above, name="above.py"))["code"] == code


def test_rules_are_listed_and_explained(command):
    listed = command("doctor", "--list-rules")
    assert listed["code"] == 0
    assert all(rule in listed["out"] for rule in diagnosis.every())
    page = command("doctor", "--explain", "freed-graph")["out"]
    assert page.startswith("freed-graph (error)")
    assert "Use instead:" in page


def test_steps_stop_the_script(script, command):
    result = command("doctor", "--steps", "5", script(LOOP.format(n=10**9)))
    assert result["code"] == 0
    assert "after 5 optimizer steps, as asked" in result["out"]


def test_why_names_the_cuts_that_are_on_purpose(command):
    out = command("doctor", "--why", SCRIPTS / "correct" / "cut_term.py")["out"]
    assert "not painter: cut by detach() at line" in out


def test_ten_thousand_iterations_do_not_grow_the_log(script, examine):
    short, long = (examine(script(LOOP.format(n=n), name=f"{n}.py")) for n in (30, 10_000))
    assert short["events"] == long["events"]
    assert long["unchecked"] == []


def test_a_failure_of_the_recorder_is_reported_and_the_script_goes_on(script, examine):
    text = LOOP.format(n=4) + "\nimport cograd.tracing._nodes as nodes\n" + LOOP.format(n=4) + "print('done')\n"
    broken = text.replace("_nodes as nodes\n", "_nodes as nodes\nnodes.overwritten = None\n")
    report = examine(script(broken))
    assert report["out"] == "done\n"
    assert report["code"] == 0
    assert "the recorder failed" in report["unchecked"][0]
    assert "_backwards.py" in report["unchecked"][0]


def test_a_private_interface_that_is_missing_is_said(script, fork):
    def work():
        from cograd.tracing import _nodes

        _nodes.missing = lambda: ["Node._sequence_nr"]
        return list(diagnosis.diagnose(diagnosis.run(str(path))).unchecked)

    path = script(LOOP.format(n=4))
    assert "torch has no Node._sequence_nr" in fork(work)[0]


def test_ctrl_c_ends_the_script_and_shows_what_was_found(script):
    path = script(
        FAULTY.read_text().replace("range(5)", "range(10**9)").replace("    error", "    print('go')\n    error")
    )
    words = [sys.executable, "-u", "-m", "cograd", "doctor", str(path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as process:
        for _ in range(20):
            process.stdout.readline()
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "broadcast-loss" in out
    assert "until interrupted" in out
