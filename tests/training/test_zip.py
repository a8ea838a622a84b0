"""Several loaders as one. That they resume is tested with all other loaders, in test_batches.py."""

import pytest
import torch
from torch.utils.data import DataLoader, RandomSampler
from torchdata.stateful_dataloader import StatefulDataLoader

from cograd.errors import LoaderError, StateError, TrainingError
from cograd.training._batches import Batches
from cograd.training._zip import zip_loaders

THREE, FIVE = [1, 2, 3], list("abcde")


@pytest.mark.parametrize("order", [("n", "c"), ("c", "n")])
@pytest.mark.parametrize(
    ("mode", "n", "c"),
    [
        ("cycle", [1, 2, 3, 1, 2], FIVE),
        ("shortest", THREE, FIVE[:3]),
        ("longest", [1, 2, 3, None, None], FIVE),
    ],
)
def test_modes(mode, order, n, c):
    loaders = {"n": THREE, "c": FIVE}
    zipped = zip_loaders(mode=mode, **{name: loaders[name] for name in order})
    for _ in range(2):
        batches = list(zipped)
        assert [batch["n"] for batch in batches] == n
        assert [batch["c"] for batch in batches] == c
        assert all(tuple(batch) == order for batch in batches)
        assert len(zipped) == len(batches)


def test_equal_lengths_end_together_in_every_mode():
    for mode in ("cycle", "shortest", "longest"):
        assert len(list(zip_loaders(mode=mode, a=[1, 2], b=[3, 4], c=[5, 6]))) == 2


def test_one_loader():
    assert list(zip_loaders(a=[1, 2])) == [{"a": 1}, {"a": 2}]


def test_a_shorter_loader_shuffles_anew():
    torch.manual_seed(0)
    short = DataLoader(range(20), batch_size=None, shuffle=True)
    given = [batch["short"] for batch in zip_loaders(long=range(60), short=short)]
    rounds = [given[:20], given[20:40], given[40:]]
    assert [sorted(part) for part in rounds] == [list(range(20))] * 3
    assert rounds[0] != rounds[1] != rounds[2]


def test_nothing_is_fetched_for_a_batch_that_is_not_given():
    class Counting:
        def __init__(self, length):
            self.length, self.given = length, 0

        def __iter__(self):
            for i in range(self.length):
                self.given += 1
                yield i

    short, long = Counting(2), Counting(4)
    assert len(list(zip_loaders(short=short, long=long))) == 4
    assert (short.given, long.given) == (4, 4)


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")
def test_an_iteration_that_was_left_does_not_disturb_the_next():
    zipped = zip_loaders(a=[1, 2, 3], b=StatefulDataLoader([4, 5], batch_size=None))
    for _ in zipped:
        break
    assert list(zipped) == [{"a": 1, "b": 4}, {"a": 2, "b": 5}, {"a": 3, "b": 4}]


def test_an_iterator_goes_on():
    zipped = zip_loaders(mode="shortest", a=[1, 2], b=iter(range(9)))
    assert [batch["b"] for batch in zipped] == [0, 1]
    assert [batch["b"] for batch in zipped] == [2, 3], "a ended first, so none of b was lost"
    with pytest.raises(LoaderError, match="The loader 'b' is an iterator, and used up"):
        list(zip_loaders(a=range(4), b=iter([1])))


def test_length_is_unknown_if_one_is():
    zipped = zip_loaders(a=[1], b=iter([2]))
    with pytest.raises(TypeError, match="The length of 'b' is unknown"):
        len(zipped)
    assert Batches(zipped).length is None


def test_set_epoch_is_passed_on():
    told = []

    class Order(RandomSampler):
        def set_epoch(self, epoch):
            told.append(epoch)

    loader = DataLoader(range(2), sampler=Order(range(2)))
    list(zip_loaders(a=range(5), b=loader))
    assert told == [0, 1, 2]


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({}, TrainingError, "zip_loaders needs loaders by name"),
        ({"mode": "cycles", "a": [1]}, TrainingError, "mode='cycles' does not exist.*Did you mean 'cycle'"),
        ({"a": [1], "b": []}, LoaderError, "The loader 'b' is empty"),
        ({"a": [1], "b": 3}, LoaderError, "The loader 'b' must give batches when iterated.*found int"),
        ({"a": zip_loaders(b=[1])}, LoaderError, "'a' is itself of zip_loaders. Give its loaders here"),
    ],
)
def test_refused(arguments, error, says):
    with pytest.raises(error, match=says):
        zip_loaders(**arguments)


def test_one_loader_under_two_names():
    assert list(zip_loaders(a=THREE, b=THREE))[1] == {"a": 2, "b": 2}
    ones = iter(THREE)
    with pytest.raises(LoaderError, match=r"'a' and 'b' are one loader.*Make a second one"):
        zip_loaders(a=ones, b=ones)


def middle(zipped):
    next(iter(zipped))
    return zipped.state_dict()


@pytest.mark.parametrize(
    ("state", "error", "says"),
    [
        (None, StateError, "no state of zip_loaders"),
        ({}, StateError, "no state of zip_loaders"),
        (middle(zip_loaders(a=THREE)), StateError, "has 'a', 'b' and mode 'cycle'; the state has 'a' and mode 'cycle'"),
        (middle(zip_loaders(mode="longest", a=THREE, b=THREE)), StateError, "and mode 'longest'. Nothing was loaded"),
        (middle(zip_loaders(a=THREE, b=iter(THREE))), StateError, "The loader 'b' is a loader without state_dict"),
        (middle(zip_loaders(a=THREE, b=FIVE)), LoaderError, "The loader 'b' has 3 batches, and had 5"),
    ],
)
def test_the_state_of_other_loaders_is_refused_and_changes_nothing(state, error, says):
    zipped = zip_loaders(a=THREE, b=THREE)
    stream = iter(zipped)
    next(stream)
    with pytest.raises(error, match=says):
        zipped.load_state_dict(state)
    assert [batch["a"] for batch in stream] == [2, 3]
