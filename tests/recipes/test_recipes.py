"""Every recipe: the step by hand, saving and resuming, what it learns, and that it is one readable file."""

import io
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from itertools import chain, islice, repeat
from pathlib import Path
from shutil import copy

import pytest
import torch
from matplotlib.figure import Figure

from cograd import errors, recipes
from cograd.recipes import build, names, train
from cograd.training import Batches

FILES = {name: Path(recipes.__file__).parent / f"{name}.py" for name in names()}
SCHEMES = {*range(1, 15)}  # those of the table that are about losses and models

BARS = {  # what a trained recipe must reach; each lies well between the trivial answer and what it gets
    "chain": 0.75,
    "combined": 0.8,
    "conditioned": 0.45,
    "consistency": 0.8,
    "distillation": 0.9,
    "fusion": 0.9,
    "gan": 0.2,
    "gan_simultaneous": 0.15,
    "multidigits": 0.9,
    "multitask": 0.9,
    "one_optimizer": 0.9,
    "separate_losses": 0.9,
    "two_models": 0.9,
    "two_towers": 0.4,
    "weighted": 0.8,
    "wgan_gp": 0.15,
}

each_recipe = pytest.mark.parametrize("name", names())


def first_batches(recipe, n):
    """The first ``n`` batches of a run."""
    batches = Batches(recipe.batches)
    return list(islice(chain.from_iterable(repeat(batches)), n))


def flat(value, path=""):
    """A nested state as one mapping: path -> tensor or plain value."""
    if isinstance(value, dict):
        return {k: v for key, item in value.items() for k, v in flat(item, f"{path}/{key}").items()}
    if isinstance(value, list | tuple):
        return {k: v for i, item in enumerate(value) for k, v in flat(item, f"{path}/{i}").items()}
    return {path: value}


def different(a, b):
    """The paths of two states that are not the same bit for bit."""
    a, b = flat(a), flat(b)
    assert a.keys() == b.keys()
    return [key for key in a if not (torch.equal(a[key], b[key]) if torch.is_tensor(a[key]) else a[key] == b[key])]


def model_states(recipe):
    return recipe.joint.state_dict()["models"]


def assert_same_as_by_hand(ours, by_hand):
    """Five steps of ``ours`` equal five steps by hand, bit for bit."""
    batches = first_batches(ours, 5)
    before = [p.clone() for p in by_hand.joint.models[list(by_hand.joint.models)[-1]].parameters()]
    torch.manual_seed(7)
    for batch in batches:
        ours.joint.step(batch)
    after = torch.get_rng_state()
    torch.manual_seed(7)
    step = by_hand.by_hand(by_hand.joint.models, by_hand.joint.optimizers)
    for batch in batches:
        step(batch)
    assert different(model_states(ours), model_states(by_hand)) == []
    assert torch.equal(after, torch.get_rng_state()), "the draws differ"
    last = by_hand.joint.models[list(by_hand.joint.models)[-1]]
    assert not all(torch.equal(a, b) for a, b in zip(before, last.parameters(), strict=True)), "nothing was trained"
    assert all(p.requires_grad == q.requires_grad for p, q in zip(*map(all_parameters, (ours, by_hand)), strict=True))


def all_parameters(recipe):
    return [p for name in recipe.joint.models for p in recipe.joint.models[name].parameters()]


@each_recipe
def test_a_step_is_the_step_by_hand(name):
    assert_same_as_by_hand(build(name), build(name))


@each_recipe
def test_a_run_that_was_saved_goes_on_bit_for_bit(name):
    whole = build(name)
    batches = first_batches(whole, 8)
    torch.manual_seed(7)
    for batch in batches:
        whole.joint.step(batch)

    first = build(name)
    torch.manual_seed(7)
    for batch in batches[:4]:
        first.joint.step(batch)
    file = io.BytesIO()
    torch.save({"joint": first.joint.state_dict(), "random": torch.get_rng_state()}, file)

    second = build(name, seed=1)
    assert different(model_states(first), model_states(second))
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    second.joint.load_state_dict(saved["joint"])
    torch.set_rng_state(saved["random"])
    for batch in batches[4:]:
        second.joint.step(batch)

    assert different(whole.joint.state_dict(), second.joint.state_dict()) == []


@each_recipe
def test_training_beats_the_trivial_answer(name):
    recipe = build(name)
    score = train(recipe)
    if recipe.higher_is_better:
        assert recipe.baseline < BARS[name] < score
    else:
        assert score < BARS[name] < recipe.baseline
    assert recipe.joint.steps == recipe.steps
    if recipe.draw:
        figure = Figure()
        recipe.draw(figure)
        assert all(axis.images for axis in figure.axes)
        assert len(figure.axes) >= 10


@each_recipe
def test_a_recipe_is_one_readable_file(name):
    text = FILES[name].read_text()
    assert len(text.splitlines()) <= 120
    assert "recipes._" not in text, "a copy must not lean on what is private"
    assert text.endswith('if __name__ == "__main__":\n    main(build)\n')
    assert schemes(name), "its first paragraph names the scheme that it shows"


def schemes(name):
    """The numbers in "(scheme 3)" or "(schemes 4, 14)" of the docstring's first paragraph."""
    first = " ".join(import_module(f"cograd.recipes.{name}").__doc__.split("\n\n")[0].split())
    numbers = first.rpartition("(scheme")[2].removeprefix("s").removesuffix(").")
    return {int(number) for number in numbers.split(",")} if "(scheme" in first else set()


def test_the_recipes_show_all_schemes():
    assert set().union(*map(schemes, names())) == SCHEMES


@pytest.mark.parametrize("name", ["one_optimizer", "weighted"])
def test_a_copied_recipe_runs_on_its_own(name, tmp_path):
    copy(FILES[name], tmp_path / "mine.py")
    done = subprocess.run(
        [sys.executable, "-W", "error", "mine.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    recipe = build(name)
    assert done.stdout.splitlines()[-1].startswith(f"{recipe.metric}: ")
    assert f"step {recipe.steps}/{recipe.steps}" in done.stdout


def test_the_same_seed_builds_the_same_recipe():
    assert different(model_states(build("chain", seed=3)), model_states(build("chain", seed=3))) == []
    assert different(model_states(build("chain", seed=3)), model_states(build("chain", seed=4)))


def test_an_unknown_recipe_is_refused_with_those_that_there_are():
    with pytest.raises(errors.RecipeError, match=r"no recipe 'multitusk'.*'gan'.*Did you mean 'multitask'\?"):
        build("multitusk")


def test_the_rule_repairs_the_unit_of_one_loss():
    balanced, plain = build("multidigits"), build("multidigits", weighting=None)
    assert train(balanced) > train(plain) + 0.1


def test_consistency_helps_where_labels_are_few():
    assert train(build("consistency")) > train(build("consistency", agree=0)) + 0.02


# -- two towers on ratings ------------------------------------------------------------------------------------------


@pytest.fixture
def ratings(tmp_path):
    """A file like MovieLens' u.data: ids with gaps, films that differ in how good they are."""
    lines = [
        f"{10 * user + 3}\t{7 * film + 1}\t{1 + (film + (user + film) % 2) % 5}\t88125094{user % 10}"
        for user in range(40)
        for film in range(25)
        if (user * film) % 3 != 1
    ]
    file = tmp_path / "u.data"
    file.write_text("\n".join(lines) + "\n")
    return file


def test_the_towers_learn_ratings_from_a_file(ratings):
    recipe = build("two_towers", path=ratings)
    assert (recipe.metric, recipe.higher_is_better) == ("root mean squared error, in stars", False)
    assert recipe.joint.models.user.num_embeddings == 40
    assert recipe.joint.models.item.num_embeddings == 25
    assert recipe.score() == pytest.approx(recipe.baseline, rel=0.05)
    assert train(replace(recipe, epochs=200)) < 0.6 * recipe.baseline


def test_a_step_on_ratings_is_the_step_by_hand(ratings):
    assert_same_as_by_hand(build("two_towers", path=ratings), build("two_towers", path=str(ratings)))
