"""``cograd demo``: what is printed, drawn and returned."""

import re
from dataclasses import replace

import pytest
import torch
from PIL import Image, ImageStat

from cograd import recipes
from cograd.cli import main


def rows(out):
    """Recipe -> the cells of its row in a wide table, continued lines left out."""
    lines = [line.strip() for line in out.splitlines() if line.startswith(" ") and line.strip()]
    return {line.split()[0]: re.split(r"\s{2,}", line) for line in lines}


def interrupt(*_):
    raise KeyboardInterrupt


def test_the_table_shows_what_a_recipe_consists_of_and_how_it_did(quick, capsys):
    quick(score=lambda: 0.25, metric="distance", baseline=2.0, trivial="noise", higher_is_better=False)
    assert main(["demo", "gan", "wgan_gp"]) == 0
    out = capsys.readouterr().out
    assert rows(out)["recipe"][:7] == ["recipe", "models", "losses", "passes", "metric", "result", "to beat"]
    assert rows(out)["recipe"][7:] == ["ms", "by hand", "ratio"]
    assert rows(out)["gan"][:7] == ["gan", "gen, disc", "disc, gen", "1 + 1", "distance", "0.25", "< 2 noise"]
    assert rows(out)["wgan_gp"][3] == "1 + 1/3"
    assert all(float(cell) > 0 for cell in rows(out)["gan"][7:])
    assert "Every recipe does better than its trivial answer." in out


def test_without_names_all_recipes_are_tried(quick, monkeypatch, capsys):
    quick(score=lambda: 0.5, baseline=0.1, higher_is_better=True)
    monkeypatch.setattr(recipes, "names", lambda: ["chain", "two_models"])
    assert main(["demo"]) == 0
    assert {"chain", "two_models"} < set(rows(capsys.readouterr().out))


def test_a_recipe_named_twice_is_tried_once(quick, capsys):
    quick(score=lambda: 0.5, baseline=0.1)
    main(["demo", "two_models", "two_models"])
    assert "[1/1] two_models" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("score", "higher_is_better", "code"),
    [(0.6, True, 0), (0.4, True, 1), (0.5, True, 1), (0.4, False, 0), (0.6, False, 1), (float("nan"), False, 1)],
)
def test_the_exit_code_says_whether_the_baseline_is_beaten(score, higher_is_better, code, quick, capsys):
    quick(score=lambda: score, baseline=0.5, higher_is_better=higher_is_better)
    assert main(["demo", "two_models"]) == code
    out = capsys.readouterr().out
    assert ("MISS" in out) == bool(code)
    assert ("two_models does no better than its trivial answer" in out) == bool(code)


def test_one_miss_among_several_is_enough(change, capsys):
    change(lambda name, recipe: replace(recipe, epochs=1, score=lambda: float(name == "chain"), baseline=0.5))
    assert main(["demo", "chain", "two_models"]) == 1
    out = capsys.readouterr().out
    assert rows(out)["chain"][5] == "1"
    assert rows(out)["two_models"][5] == "0 MISS"


def test_a_log_file_gets_plain_lines(quick, capsys):
    quick(score=lambda: 0.25, metric="distance", baseline=2.0, trivial="noise", higher_is_better=False)
    main(["demo", "chain", "two_models"])
    out = capsys.readouterr().out
    assert [character for character in out if not character.isprintable() and character != "\n"] == []
    assert out.startswith("[1/2] chain  distance: 0.25 (noise: 2)")
    assert "\n[2/2] two_models  distance: 0.25" in out


def test_a_terminal_gets_a_bar_and_a_table_that_fits(quick, monkeypatch, capsys):
    quick(score=lambda: 0.25, baseline=2.0, trivial="noise", higher_is_better=False)
    for name, value in {"TTY_COMPATIBLE": "1", "TTY_INTERACTIVE": "1", "TERM": "xterm", "COLUMNS": "80"}.items():
        monkeypatch.setenv(name, value)
    assert main(["demo", "two_models"]) == 0
    out = capsys.readouterr().out
    assert "recipe 1 of 1" in out
    assert "[1/1]" not in out
    lines = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line) for line in out.split("\r")[-1].splitlines()]
    assert max(map(len, lines)) <= 80
    table = "\n".join(line.rstrip() for line in lines)
    for part in ("two_models", "models: sommelier", "losses: wine", "0.25", "< 2", "(noise)", "ratio"):
        assert part in table


def test_ctrl_c_shows_what_is_finished(change, tmp_path, capsys):
    def one_then_interrupted(name, recipe):
        if name == "chain":
            recipe.joint.step = interrupt
        return replace(recipe, epochs=1, score=lambda: 1.0, baseline=0.5)

    change(one_then_interrupted)
    threads = torch.get_num_threads()
    assert main(["demo", "two_models", "chain", "gan", "--out", str(tmp_path)]) == 130
    assert torch.get_num_threads() == threads
    out = capsys.readouterr().out
    assert "two_models" in rows(out)
    assert "chain" not in rows(out)
    assert "Interrupted. Finished: 1 of 3." in out
    assert str(tmp_path / "two_models.png") in out


def test_ctrl_c_before_anything_is_finished(change, capsys):
    def interrupted(_, recipe):
        recipe.joint.step = interrupt
        return recipe

    change(interrupted)
    assert main(["demo", "two_models"]) == 130
    assert capsys.readouterr().out == "Interrupted. Finished: 0 of 1.\n"


def test_an_error_is_shown_after_what_is_finished(change, capsys):
    def broken(name, recipe):
        return replace(recipe, epochs=1, score={"chain": lambda: 1.0, "two_models": lambda: 1 / 0}[name])

    change(broken)
    with pytest.raises(ZeroDivisionError):
        main(["demo", "chain", "two_models"])
    assert "chain" in rows(capsys.readouterr().out)


def test_pictures(change, tmp_path, capsys):
    def with_picture(name, recipe):
        draw = {"gan": lambda figure: figure.subplots().set_title("drawn by the recipe"), "two_models": None}[name]
        return replace(recipe, epochs=1, score=lambda: 0.25, baseline=2.0, higher_is_better=False, draw=draw)

    change(with_picture)
    folder = tmp_path / "new" / "pictures"
    assert main(["demo", "gan", "two_models", "--out", str(folder)]) == 0
    assert f"2 pictures in {folder}" in capsys.readouterr().out
    assert sorted(path.name for path in folder.iterdir()) == ["gan.png", "two_models.png"]
    for path in folder.iterdir():
        image = Image.open(path).convert("L")
        assert min(image.size) > 200
        assert ImageStat.Stat(image).stddev[0] > 10


def test_pictures_into_a_file(tmp_path, capsys):
    (tmp_path / "taken").write_text("")
    assert main(["demo", "two_models", "--out", str(tmp_path / "taken")]) == 2
    printed = capsys.readouterr()
    assert "cannot make this folder" in printed.err
    assert printed.out == ""
