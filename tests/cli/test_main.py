"""The command itself: help, version, what it says when it cannot run, and what importing costs."""

import os
import subprocess
import sys

import pytest

import cograd
from cograd.cli import main

HELP = {
    (): ["demo", "recipe", "cograd demo gan"],
    ("demo",): ["--out", "--list", "cograd demo gan --out pictures", "exit code"],
    ("recipe",): ["list", "path", "copy", "cograd recipe copy gan my_gan.py"],
    ("recipe", "list"): ["cograd recipe list"],
    ("recipe", "path"): ["cograd recipe path gan"],
    ("recipe", "copy"): ["--force", "cograd recipe copy gan my_gan.py"],
}


@pytest.mark.parametrize("words", HELP, ids=" ".join)
def test_help_says_what_a_command_does_and_gives_an_example(words, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*words, "--help"])
    out = capsys.readouterr().out
    assert stop.value.code == 0
    assert out.startswith(" ".join(["usage: cograd", *words, "["]))
    assert [part for part in HELP[words] if part not in out] == []


@pytest.mark.parametrize("words", [(), ("recipe",)], ids=" ".join)
def test_a_command_that_is_not_complete_shows_its_help(words, capsys):
    assert main(words) == 2
    out = capsys.readouterr().out
    assert [part for part in HELP[words] if part not in out] == []


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"cograd {cograd.__version__}\n"


@pytest.mark.parametrize("words", [["dmeo"], ["demo", "--lst"], ["recipe", "copy", "gan"]], ids=" ".join)
def test_arguments_that_do_not_parse(words, capsys):
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    printed = capsys.readouterr()
    assert "--help" in printed.err
    assert printed.out == ""


@pytest.mark.parametrize("words", [["demo"], ["demo", "--list"], ["recipe", "path"], ["recipe", "copy"]], ids=" ".join)
def test_an_unknown_recipe(words, tmp_path, capsys):
    target = [str(tmp_path / "mine.py")] if "copy" in words else []
    assert main([*words, "wgan_pg", *target]) == 2
    printed = capsys.readouterr()
    assert "no recipe 'wgan_pg'" in printed.err
    assert "Did you mean 'wgan_gp'?" in printed.err
    assert printed.out == ""
    assert list(tmp_path.iterdir()) == []


def test_all_unknown_recipes_are_named_at_once(capsys):
    assert main(["demo", "gna", "gan", "chian"]) == 2
    err = capsys.readouterr().err
    assert "'gna'" in err
    assert "'chian'" in err


@pytest.mark.parametrize(("module", "package"), [("sklearn", "scikit-learn"), ("matplotlib", "matplotlib")])
def test_a_missing_optional_dependency(module, package, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, module, None)
    assert main(["demo", "gan", "--out", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert package in err
    assert 'pip install "cograd[demo]"' in err
    assert "Traceback" not in err


def test_another_missing_module_is_not_hidden(quick, monkeypatch):
    def broken(*_):
        raise ModuleNotFoundError("No module named 'elsewhere'", name="elsewhere")

    quick(score=broken)
    with pytest.raises(ModuleNotFoundError, match="elsewhere"):
        main(["demo", "two_models"])


def test_an_interrupt_outside_a_demo(monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("cograd.cli._catalogue.print_list", interrupt)
    assert main(["recipe", "list"]) == 130
    assert "Interrupted" in capsys.readouterr().err


def test_python_m_cograd_is_the_same_command(shell, capsys):
    ran = shell("-m", "cograd", "recipe", "path", "gan")
    assert main(["recipe", "path", "gan"]) == 0
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, capsys.readouterr().out, "")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_stops_early_sees_no_traceback(unbuffered):
    reader, writer = os.pipe()
    os.close(reader)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": unbuffered}
    command = [sys.executable, "-m", "cograd", "recipe", "list"]
    ran = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, env=environment, check=False)
    os.close(writer)
    assert ran.stderr == ""


def test_what_is_heavy_is_imported_only_when_it_is_needed(shell):
    code = """
import sys, cograd
heavy = ["rich", "jsonargparse", "matplotlib", "sklearn"]
print([name for name in heavy if name in sys.modules])
from cograd.cli import main
main([])
print([name for name in heavy if name in sys.modules])
"""
    lines = shell("-c", code).stdout.splitlines()
    assert (lines[0], lines[-1]) == ("[]", "['jsonargparse']")
