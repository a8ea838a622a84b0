"""Each example runs in a few steps, and shows what it says that it shows."""

import csv
import importlib.util
import sys
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).parents[2] / "examples"


def example(name):
    spec = importlib.util.spec_from_file_location(f"examples_{name}", EXAMPLES / f"{name}.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # where dataclasses look for their own
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def digits():
    return example("multi_digits")


@pytest.fixture(scope="module")
def fonseca():
    return example("fonseca")


@pytest.fixture(scope="module")
def toy():
    return example("toy_two_losses")


def test_every_example_has_a_test():
    loops = {"lightning_module", "fabric_loop", "accelerate_loop"}
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {"multi_digits", "fonseca", "toy_two_losses"} | loops


def test_digits_write_tables_a_file_and_a_picture(digits, tmp_path, capsys):
    asked = ["--quick", "--settings", "adam-x100", "sgd", "--methods", "sum", "FirstValue", "UPGrad"]
    outcomes = digits.main([*asked, "--out", str(tmp_path)])
    with (tmp_path / "multi_digits.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["setting"], row["method"]) for row in rows] == [(o.setting, o.method) for o in outcomes]
    assert len(rows) == 6
    assert (tmp_path / "multi_digits.png").stat().st_size > 1000
    printed = capsys.readouterr().out
    assert "Adam 1e-3, left loss x100" in printed
    assert "| UPGrad" in printed
    assert digits.read(tmp_path / "multi_digits.csv") == outcomes
    right = {o.method: o.right for o in outcomes if o.setting == "adam-x100"}
    assert right["FirstValue"] > right["sum"] + 0.2  # the large left loss leaves the right digit behind


def test_no_digit_is_in_training_and_test(digits):
    data, test = digits.load(0)
    assert data.images.shape == (12_000, 144)
    assert test.images.shape == (3_000, 144)
    assert data.images.min() == 0
    assert data.images.max() == 1

    def corners(images):  # 4x4 pixels that only the left digit reaches, and all of its rows above the right one
        return {tuple(row) for row in images.reshape(-1, 12, 12)[:, :4, :8].flatten(1).tolist()}

    assert len(corners(data.images) & corners(test.images)) <= 1  # the tops of two digits may agree by chance


def test_the_search_for_weights_finds_the_scale(digits):
    data, _ = digits.load(0)
    assert digits.tune(digits.SETTINGS["adam-x100"], data, 20, 0) < 0.1


def test_an_outcome_says_why_it_stopped(digits):
    setting = digits.SETTINGS["sgd"]._replace(lr=1e30)
    joint = digits.build(setting, None)
    assert "NonFiniteLossError" in digits.train(joint, digits.load(0)[0], 20, 0)


@pytest.mark.parametrize("method", ["MGDA", "UPGrad", "SmoothTchebycheff"])
def test_fonseca_ends_on_the_front_between_its_tips(fonseca, method):
    ends = [fonseca.descend(method, start, 120, 0.1).losses[-1] for start in fonseca.STARTS[1:3]]
    assert all(fonseca.gap(end) < 2 * fonseca.REACHED for end in ends)
    assert not any(fonseca.at_tip(end) for end in ends)


def test_on_a_concave_front_a_weighted_sum_slides_to_a_tip(fonseca):
    assert fonseca.at_tip(fonseca.descend("sum", (0.1, 0.5), 200, 0.1).losses[-1])
    assert fonseca.at_tip(fonseca.descend("weights 2 : 1", (0.1, 0.5), 200, 0.1).losses[-1])


def test_the_front_of_fonseca_is_where_the_line_between_the_centres_is(fonseca):
    line = torch.linspace(-fonseca.CENTRE, fonseca.CENTRE, 9)
    for losses in fonseca.objectives(torch.stack([line, line], -1)).numpy():
        assert abs(losses - fonseca.front()).sum(axis=1).min() < 1e-3
        assert fonseca.gap(losses) < 1e-4
        assert fonseca.gap(losses + 0.1) == pytest.approx(0.1, abs=1e-3)


def test_fonseca_prints_and_draws(fonseca, tmp_path, capsys):
    fonseca.main(["--methods", "sum", "UPGrad", "--steps", "5", "--out", str(tmp_path / "fonseca.png")])
    assert "| UPGrad" in capsys.readouterr().out
    assert (tmp_path / "fonseca.png").stat().st_size > 1000


def test_the_toy_losses_are_those_of_its_authors(toy):
    """Written out as in toy.py of CAGrad's authors, at random points."""
    x, y = (torch.rand(2, 200) - 0.5) * 20
    upper, lower = (y * 0.5).tanh().clamp(0), (-y * 0.5).tanh().clamp(0)
    first = (0.5 * (-x - 7) - (-y).tanh()).abs().clamp(0.000005).log() + 6
    second = (0.5 * (-x + 3) + (-y).tanh() + 2).abs().clamp(0.000005).log() + 6
    bowls = [((-x + side) ** 2 + 0.1 * (-y - 8) ** 2) / 10 - 20 for side in (7, -7)]
    expected = torch.stack([first * upper + bowls[0] * lower, second * upper + bowls[1] * lower], -1)
    torch.testing.assert_close(toy.unscaled(x, y), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", ["MGDA", "UPGrad", "CAGrad"])
def test_the_toy_front_is_reached_from_the_bowl(toy, method):
    path = toy.descend(method, (-7.5, -0.5), 250, 0.1)
    assert toy.gap(toy.end(path)) < toy.REACHED


def test_the_toy_gap_is_what_both_losses_could_still_lose(toy):
    assert toy.gap(toy.unscaled(torch.tensor(0.0), torch.tensor(-8.3552))) < 1e-3
    assert toy.gap(toy.unscaled(torch.tensor(9.0), torch.tensor(9.0))) > 10


def test_the_toy_prints_and_draws(toy, tmp_path, capsys):
    paths = toy.main(["--methods", "sum", "FAMO", "UPGrad", "--steps", "5", "--out", str(tmp_path / "toy.png")])
    assert all(len(path.points) == 6 for mine in paths.values() for path in mine)
    assert "| UPGrad" in capsys.readouterr().out
    assert (tmp_path / "toy.png").stat().st_size > 1000


@pytest.mark.filterwarnings(
    "ignore:.isinstance.treespec, LeafSpec.. is deprecated:FutureWarning",
    "ignore:GPU available but not used",
    "ignore:The '.*_dataloader' does not have many workers",
)
def test_a_gan_inside_lightning_learns(capsys):
    before, after = example("lightning_module").main(["--epochs", "20"])
    assert "380 batches, 380 updates of the generator" in capsys.readouterr().out
    assert before == 0
    assert after > 0.02


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_two_heads_in_a_fabric_loop_learn(precision, capsys):
    before, after = example("fabric_loop").main(["--epochs", "2", "--precision", precision])
    assert "digits read" in capsys.readouterr().out
    assert after.digit > before.digit + 0.5
    assert after.ink < before.ink / 4


def test_two_towers_inside_accelerate_learn_and_resume(capsys):
    before, after, resumed = example("accelerate_loop").main(["--epochs", "4"])
    assert "the same bit for bit" in capsys.readouterr().out
    assert after == resumed > before + 0.2
