"""A stream of batches that was cut and resumed is bit for bit the one that was not, and all that is drawn after too."""

import io
import random
from collections import UserDict
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    TensorDataset,
    WeightedRandomSampler,
)
from torch.utils.data.distributed import DistributedSampler
from torchdata.stateful_dataloader import StatefulDataLoader

from cograd.errors import LoaderError, StateError, TrainingError
from cograd.training._batches import Batches
from cograd.training._world import set_world_state, world_state
from cograd.training._zip import zip_loaders

pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")  # torchdata calls it
DATA = list(range(7))


class Augmented(Dataset):
    """Draws from every global generator."""

    def __len__(self):
        return len(DATA)

    def __getitem__(self, i):
        return i + torch.rand(()).item(), random.random(), float(np.random.rand())


class Owning(Dataset):
    """Draws from generators of its own."""

    def __init__(self):
        self.rng, self.old = np.random.default_rng(0), np.random.RandomState(0)
        self.python, self.torch = random.Random(0), torch.Generator().manual_seed(0)

    def __len__(self):
        return len(DATA)

    def __getitem__(self, i):
        return i, self.rng.random(), self.old.rand(), self.python.random(), torch.rand((), generator=self.torch)


class Stream(IterableDataset):
    """Shuffles by Python's generator and NumPy's, then adds noise."""

    def __iter__(self):
        order = [int(i) for i in np.random.permutation(DATA)]
        random.shuffle(order)
        for i in order:
            yield i + torch.rand(()).item()


class StatefulStream(IterableDataset):
    """Knows where it is."""

    def __init__(self):
        self.at = 0

    def __iter__(self):
        while self.at < len(DATA):
            self.at += 1
            yield self.at
        self.at = 0

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.at = state["at"]


class OwnOrder(Sampler):
    """Each epoch in another order, from a generator that lives on."""

    def __init__(self):
        self.rng = random.Random(3)

    def __iter__(self):
        return iter(self.rng.sample(DATA, len(DATA)))

    def __len__(self):
        return len(DATA)


class Shuffled:
    """A loader by hand."""

    def __iter__(self):
        order = [int(i) for i in np.random.permutation(DATA)]
        random.shuffle(order)
        yield from order


class Rewinding:
    """Its own iterator, which begins anew."""

    def __iter__(self):
        self.left = random.sample(DATA, len(DATA))
        return self

    def __next__(self):
        if not self.left:
            raise StopIteration
        return self.left.pop()


class Feed(Iterator):
    """Its own iterator, which goes on."""

    def __init__(self):
        self.at = 0

    def __next__(self):
        self.at += 1
        if self.at > 12:
            raise StopIteration
        return self.at + torch.rand(()).item()


class Continuing:
    """A loader by hand that knows where it is."""

    def __init__(self):
        self.at = self.passes = 0

    def __iter__(self):
        while self.at < 4:
            self.at += 1
            yield self.passes, self.at
        self.at, self.passes = 0, self.passes + 1

    def state_dict(self):
        return {"at": self.at, "passes": self.passes}

    def load_state_dict(self, state):
        self.at, self.passes = state["at"], state["passes"]


def stream():
    order = list(DATA)
    random.shuffle(order)
    for i in order:
        yield i + torch.rand(()).item()


def seeded():
    return torch.Generator().manual_seed(5)


def weighted(generator=None):
    return WeightedRandomSampler([1.0 + i for i in DATA], 6, generator=generator)


def cycle(**more):
    return zip_loaders(
        long=DataLoader(DATA, 2, shuffle=True), short=DataLoader(DATA[:3], 1, shuffle=True, generator=seeded()), **more
    )


LOADERS = {
    "list": lambda: [1, 2, 3],
    "sequential": lambda: DataLoader(DATA, 2),
    "shuffle": lambda: DataLoader(DATA, 2, shuffle=True, drop_last=True),
    "generator": lambda: DataLoader(DATA, 2, shuffle=True, generator=seeded()),
    "generator of the sampler": lambda: DataLoader(DATA, 2, sampler=RandomSampler(DATA, generator=seeded())),
    "with replacement": lambda: DataLoader(DATA, 2, sampler=RandomSampler(DATA, replacement=True, num_samples=70)),
    "weighted": lambda: DataLoader(DATA, 2, sampler=weighted()),
    "weighted, generator": lambda: DataLoader(DATA, 2, sampler=weighted(seeded())),
    "batch_sampler": lambda: DataLoader(DATA, batch_sampler=BatchSampler(OwnOrder(), 3, drop_last=False)),
    "batch_size=None": lambda: DataLoader(DATA, batch_size=None, shuffle=True),
    "own sampler": lambda: DataLoader(DATA, 2, sampler=OwnOrder()),
    "set_epoch": lambda: DataLoader(DATA, 2, sampler=DistributedSampler(DATA, 1, 0)),
    "augmented": lambda: DataLoader(Augmented(), 2, shuffle=True),
    "dataset with generators": lambda: DataLoader(ConcatDataset([Owning(), Owning()]), 5, shuffle=True),
    "iterable dataset": lambda: DataLoader(Stream(), 2),
    "loader by hand": Shuffled,
    "loader by hand with state": Continuing,
    "iterator that begins anew": Rewinding,
    "stateful": lambda: StatefulDataLoader(DATA, 2),
    "stateful, shuffle": lambda: StatefulDataLoader(DATA, 2, shuffle=True),
    "stateful, augmented": lambda: StatefulDataLoader(Augmented(), 2, shuffle=True, generator=seeded()),
    "stateful, weighted": lambda: StatefulDataLoader(DATA, 2, sampler=weighted()),
    "stateful, weighted, generator": lambda: StatefulDataLoader(DATA, 2, sampler=weighted(seeded())),
    "stateful, batch_sampler": lambda: StatefulDataLoader(
        DATA, batch_sampler=torch.utils.data.BatchSampler(RandomSampler(DATA), 3, drop_last=False)
    ),
    "stateful, iterable": lambda: StatefulDataLoader(StatefulStream(), 2),
    "cycle": cycle,
    "cycle, first is short": lambda: zip_loaders(a=DataLoader(DATA[:2], shuffle=True), b=[1, 2, 3], c=Shuffled()),
    "cycle, augmented": lambda: zip_loaders(a=DataLoader(Augmented(), 3, shuffle=True), b=DataLoader(Stream(), 1)),
    "cycle, stateful": lambda: zip_loaders(a=StatefulDataLoader(DATA[:3], 1, shuffle=True), b=DataLoader(DATA)),
    "longest": lambda: zip_loaders(mode="longest", a=DataLoader(DATA, 2, shuffle=True), b=DataLoader(Stream(), 4)),
    "shortest": lambda: zip_loaders(mode="shortest", a=DataLoader(DATA, 2, shuffle=True), b=Shuffled()),
}
WORKERS = {
    "workers": lambda: DataLoader(Augmented(), 1, shuffle=True, num_workers=2),
    "workers, iterable": lambda: DataLoader(Stream(), 2, num_workers=2),
    "stateful, workers": lambda: StatefulDataLoader(DATA, 1, shuffle=True, num_workers=2),
}


def seed(number):
    torch.manual_seed(number)
    random.seed(number)
    np.random.seed(number)


def plain(batch):
    if isinstance(batch, torch.Tensor):
        return batch.tolist()
    if isinstance(batch, dict):
        return {key: plain(part) for key, part in batch.items()}
    return [plain(part) for part in batch] if isinstance(batch, (list, tuple)) else batch


def events(batches, epochs):
    """A training that draws from all global generators, after each batch and after each epoch."""
    while batches.epoch < epochs:
        for batch in batches:
            yield batches.epoch, batches.index, plain(batch), torch.rand(()).item(), random.random(), np.random.rand()
        yield batches.epoch, torch.rand(()).item(), random.random(), np.random.rand()


def saved(batches):
    """As a file would hold it."""
    file = io.BytesIO()
    torch.save({"batches": batches.state_dict(), "world": world_state()}, file)
    return torch.load(io.BytesIO(file.getvalue()), weights_only=True)


def resumed(make, state):
    """In another process: nothing is as it was, but the command."""
    seed(99)
    batches = Batches(make())
    batches.load_state_dict(state["batches"])
    set_world_state(state["world"])
    return batches


def check(make, epochs=3, cuts=None):
    seed(1)
    whole = list(events(Batches(make()), epochs))
    assert len(whole) > 3
    seed(1)
    states = [saved(batches := Batches(make()))]
    for event, expected in zip(events(batches, epochs), whole, strict=True):
        assert event == expected, "saving has changed the stream"
        states.append(saved(batches))
    for cut in range(len(whole)) if cuts is None else cuts:
        assert list(events(resumed(make, states[cut]), epochs)) == whole[cut:], f"cut after event {cut}"
    return whole


@pytest.mark.parametrize("make", LOADERS.values(), ids=LOADERS.keys())
def test_resumes_anywhere(make):
    check(make)


@pytest.mark.parametrize("make", WORKERS.values(), ids=WORKERS.keys())
def test_resumes_with_workers(make):
    if make is WORKERS["stateful, workers"]:
        assert Batches(make())._kind == "own"
    check(make, epochs=2, cuts=[3, 9])


@pytest.mark.parametrize("stateful", [False, True])
def test_resumes_a_loader_of_accelerate(stateful):
    import accelerate

    configuration = accelerate.utils.DataLoaderConfiguration(use_stateful_dataloader=stateful)
    accelerator = accelerate.Accelerator(cpu=True, dataloader_config=configuration)
    check(lambda: accelerator.prepare(DataLoader(DATA, 2, shuffle=True)))


def test_resumes_a_loader_of_fabric():
    from lightning.fabric import Fabric

    fabric = Fabric(accelerator="cpu", devices=1)
    check(lambda: fabric.setup_dataloaders(DataLoader(Augmented(), 2, shuffle=True)))


def test_shuffles_differ_from_epoch_to_epoch():
    whole = check(LOADERS["shuffle"])
    assert whole[0][2] != whole[4][2] != whole[8][2]


def test_persistent_workers_keep_their_order_and_a_warning_says_what_they_do_not():
    def make():
        return DataLoader(DATA, 2, shuffle=True, num_workers=1, persistent_workers=True)

    check(make, epochs=2, cuts=[0, 2])  # in the epoch in which they started, even what they draw
    with pytest.warns(UserWarning, match="persistent workers, and they start anew.*persistent_workers=False"):
        check(make, epochs=3, cuts=[5])  # between two epochs
    with pytest.warns(UserWarning, match="persistent workers"):
        check(make, epochs=3, cuts=[8])


@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true but no accelerator")
def test_pinned_memory():
    check(lambda: DataLoader(TensorDataset(torch.arange(7)), 2, shuffle=True, pin_memory=True))


@pytest.mark.parametrize("make", [stream, Feed, lambda: map(random.gauss, DATA, DATA)])
def test_an_iterator_is_one_epoch(make):
    check(make, epochs=1)
    batches = Batches(make())
    list(batches)
    with pytest.raises(LoaderError, match="loader is an iterator, and used up"):
        next(iter(batches))


def test_an_iterator_beside_a_loader_goes_on():
    check(lambda: zip_loaders(mode="shortest", a=DataLoader(DATA, 4, shuffle=True), b=iter(range(100))))
    check(lambda: zip_loaders(mode="shortest", a=DataLoader(DATA, 4, shuffle=True), b=Feed()))


def test_resumes_twice_in_one_epoch():
    make = LOADERS["augmented"]
    whole = check(make)
    seed(1)
    batches, at = Batches(make()), 0
    for steps in (2, 1, 3, 1):
        stream = events(batches, 3)
        assert [next(stream) for _ in range(steps)] == whole[at : at + steps]
        at += steps
        batches = resumed(make, saved(batches))
        assert batches.state_dict()["index"] == batches.index
        batches = resumed(make, saved(batches))  # before it has given anything
    assert list(events(batches, 3)) == whole[at:]


def test_a_generator_that_the_training_shares():
    def run(cut):
        shared = seeded()

        def steps(batches):
            while batches.epoch < 2:
                for batch in batches:
                    yield batch.tolist(), torch.rand((), generator=shared).item()

        seed(1)
        batches = Batches(DataLoader(DATA, 2, shuffle=True, generator=shared))
        stream = steps(batches)
        out = [next(stream) for _ in range(cut)]
        state = saved(batches)
        shared = torch.Generator()
        batches = Batches(DataLoader(DATA, 2, shuffle=True, generator=shared))
        batches.load_state_dict(state["batches"])
        set_world_state(state["world"])
        return out + list(steps(batches))

    assert run(0) == run(2) == run(5)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_length_any_cut(data):
    lengths = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=3), "lengths")
    sizes = [data.draw(st.integers(1, n), "batch size") for n in lengths]
    mode, epochs = data.draw(st.sampled_from(["cycle", "shortest", "longest"])), data.draw(st.integers(1, 3), "epochs")
    kinds = [data.draw(st.sampled_from([DataLoader, StatefulDataLoader])) for _ in lengths]

    def make():
        loaders = [kind(range(n), size, shuffle=True) for kind, n, size in zip(kinds, lengths, sizes, strict=True)]
        return (
            loaders[0] if len(loaders) == 1 else zip_loaders(mode=mode, **{f"l{i}": x for i, x in enumerate(loaders)})
        )

    seed(1)
    whole = list(events(Batches(make()), epochs))
    cut = data.draw(st.integers(0, len(whole) - 1), "cut")
    seed(1)
    batches = Batches(make())
    stream = events(batches, epochs)
    assert [next(stream) for _ in range(cut)] == whole[:cut]
    assert list(events(resumed(make, saved(batches)), epochs)) == whole[cut:]


def test_position():
    batches = Batches(DataLoader(DATA, 2))
    assert (batches.epoch, batches.index, batches.length) == (0, 0, 4)
    for _ in batches:
        if batches.index == 3:
            break
    assert [batch.tolist() for batch in batches] == [[6]], "the next iteration gives what remains"
    assert (batches.epoch, batches.index) == (1, 0)
    assert len(list(batches)) == 4
    assert Batches(DataLoader(Stream())).length is None
    assert Batches(iter([1])).length is None


def test_moves_to_the_device():
    assert next(iter(Batches([{"x": torch.ones(2)}], device="meta")))["x"].device.type == "meta"
    with pytest.raises(TrainingError, match=r"device='gpu' cannot be used here .*Choose another, such as 'cpu'"):
        Batches([1], device="gpu")


def test_every_part_with_set_epoch_is_told():
    class Told(list):
        def __init__(self, parts):
            super().__init__([1])
            self.told, self.sampler, self.dataset = [], *parts

        def set_epoch(self, epoch):
            self.told.append(epoch)

    sampler, dataset = Told((None, None)), Told((None, None))
    loader = Told((sampler, dataset))
    batches = Batches(loader)
    list(batches), list(batches)
    assert loader.told == sampler.told == dataset.told == [0, 1]
    other = Batches(loader)
    other.load_state_dict(batches.state_dict())
    list(other)
    assert loader.told == [0, 1, 2]


@pytest.mark.parametrize(
    ("loader", "says"),
    [
        (3, "must give batches when iterated, as a DataLoader, a list or a generator does; found int"),
        (stream, "found function. Call it, and give what it returns"),
        (DataLoader, "found type"),
        ("abc", "found str"),
        ({"a": [1]}, r"dict, which gives its keys.*cograd.zip_loaders\(\*\*loaders\)"),
        (UserDict(a=[1]), "UserDict, which gives its keys"),
        (Augmented(), "dataset Augmented, which gives samples, not batches. Wrap it: torch.utils.data.DataLoader"),
        ([], "loader is empty: its length is 0. Give it data"),
        (DataLoader(DATA, 8, drop_last=True), "drop_last=True needs at least one whole batch"),
    ],
)
def test_what_gives_no_batches_is_refused(loader, says):
    with pytest.raises(LoaderError, match=says):
        Batches(loader)


def test_an_epoch_without_a_batch_is_an_error():
    class Once:
        left = 1

        def __iter__(self):
            self.left, left = 0, self.left
            return iter(range(left))

    batches = Batches(Once(), name="train")
    assert list(batches) == [0]
    with pytest.raises(LoaderError, match=r"train gave no batch in epoch 1\. Every epoch needs one: give something"):
        list(batches)
    with pytest.raises(LoaderError, match="gave no batch in epoch 0"):
        list(Batches(iter(())))


def middle(loader, steps=2):
    batches = Batches(loader)
    for _, batch in zip(range(steps), batches, strict=False):
        assert batch is not None
    assert batches.index == steps
    return batches.state_dict()


def test_a_length_that_changes_by_itself_is_no_other_data():
    class Buckets(Sampler):
        rounds = 5

        def __len__(self):
            return self.rounds

        def __iter__(self):
            self.rounds = random.randint(3, 6)
            return iter([[i] for i in range(self.rounds)])

    check(lambda: DataLoader(DATA, batch_sampler=Buckets()))


def test_another_length_is_refused_in_the_middle_of_an_epoch():
    batches = Batches([1, 2])
    with pytest.raises(LoaderError, match="has 2 batches, and had 3 batches when it was stopped after 2 of them"):
        batches.load_state_dict(middle([1, 2, 3]))
    assert (batches.epoch, list(batches)) == (0, [1, 2])
    before = Batches([1, 2, 3])
    list(before)
    batches.load_state_dict(before.state_dict())
    assert list(batches) == [1, 2], "between two epochs the data may change"


def test_fewer_batches_than_were_given_is_an_error():
    batches = Batches(iter([1]))
    batches.load_state_dict(middle(iter([1, 2, 3])))
    torch.manual_seed(4)
    with pytest.raises(LoaderError, match="gave only 1 batch in the epoch in which it had given 2"):
        next(iter(batches))
    after = torch.rand(3)
    torch.manual_seed(4)
    assert torch.equal(after, torch.rand(3)), "the random state is as it was"


@pytest.mark.parametrize(
    ("state", "says"),
    [
        (lambda: None, "no state of a loader, or a damaged one: found NoneType"),
        (lambda: middle([1, 2, 3]) | {"start": None}, "lacks the start of its epoch, so it is damaged"),
        (lambda: {"epoch": 1}, "it has 'epoch', and lacks 'kind', 'index'"),
        (
            lambda: middle(iter([1, 2, 3])),
            "loader is a loader without .*; the state is of an iterator.*Resume with the same",
        ),
        (lambda: middle(LOADERS["stateful"]()), "the state is of a loader with state_dict"),
        (lambda: middle(LOADERS["generator"]()), r"draws from none; the state has 'loader.generator'"),
    ],
)
def test_the_state_of_another_loader_is_refused(state, says):
    batches = Batches([1, 2])
    with pytest.raises(StateError, match=says):
        batches.load_state_dict(state())
    assert list(batches) == [1, 2]
