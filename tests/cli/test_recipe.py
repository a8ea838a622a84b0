"""``cograd recipe``: list, path, copy."""

from pathlib import Path

import pytest

from cograd import recipes
from cograd.cli import main


def path(name, capsys):
    assert main(["recipe", "path", name]) == 0
    return Path(capsys.readouterr().out.rstrip("\n"))


@pytest.mark.parametrize("words", [["recipe", "list"], ["demo", "--list"]], ids=" ".join)
def test_list_names_every_recipe_with_a_line_on_it(words, capsys):
    assert main(words) == 0
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert [name for name, _ in lines] == recipes.names()
    assert dict(lines)["gan"].startswith("GAN on handwritten digits")


def test_list_of_some(capsys):
    assert main(["demo", "--list", "wgan_gp", "gan"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["wgan_gp", "gan"]


def test_path_prints_the_file_and_nothing_else(capsys):
    assert "def build(" in path("gan", capsys).read_text()


def test_copy_is_what_path_prints_and_says_what_to_type_next(tmp_path, capsys):
    mine = tmp_path / "my gan.py"
    assert main(["recipe", "copy", "gan", str(mine)]) == 0
    assert capsys.readouterr().out.rstrip("\n").endswith(f"python '{mine}'")
    assert mine.read_bytes() == path("gan", capsys).read_bytes()


def test_copy_into_a_folder(tmp_path, capsys):
    assert main(["recipe", "copy", "gan", str(tmp_path)]) == 0
    capsys.readouterr()
    assert (tmp_path / "gan.py").read_bytes() == path("gan", capsys).read_bytes()


def test_copy_overwrites_only_with_force(tmp_path, capsys):
    mine = tmp_path / "mine.py"
    mine.write_text("my work")
    assert main(["recipe", "copy", "gan", str(mine)]) == 2
    printed = capsys.readouterr()
    assert f"{mine} exists already" in printed.err
    assert "--force" in printed.err
    assert printed.out == ""
    assert mine.read_text() == "my work"

    assert main(["recipe", "copy", "gan", str(mine), "--force"]) == 0
    capsys.readouterr()
    assert mine.read_bytes() == path("gan", capsys).read_bytes()


def test_copy_to_where_there_is_no_folder(tmp_path, capsys):
    assert main(["recipe", "copy", "gan", str(tmp_path / "none" / "mine.py")]) == 2
    assert f"mkdir -p {tmp_path / 'none'}" in capsys.readouterr().err


def test_copy_to_where_nothing_can_be_written(tmp_path, capsys):
    (tmp_path / "gan.py").mkdir()
    assert main(["recipe", "copy", "gan", str(tmp_path), "--force"]) == 2
    assert f"Cannot write {tmp_path / 'gan.py'}" in capsys.readouterr().err


def test_a_copy_runs_as_it_is(tmp_path, shell, capsys):
    mine = tmp_path / "mine.py"
    assert main(["recipe", "copy", "two_models", str(mine)]) == 0
    ran = shell(mine)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "backward pass" in ran.stdout
