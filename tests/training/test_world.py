"""What is drawn after the random state was set is what was drawn after it was taken."""

import io
import random

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, ConcatDataset, DataLoader, Dataset, RandomSampler

from cograd.errors import StateError
from cograd.training._generators import generators, restore, states
from cograd.training._world import kept_world, set_world_state, world_state


def reread(state):
    file = io.BytesIO()
    torch.save(state, file)
    return torch.load(io.BytesIO(file.getvalue()), weights_only=True)


def draw():
    """Also the second half of a pair of normal numbers, which Python and NumPy keep for the next call."""
    python = random.random(), random.gauss(0, 1)
    return (
        *python,
        float(np.random.randn()),
        *torch.rand(2).tolist(),
        torch.randn(()).item(),
        np.random.permutation(9)[0],
    )


def test_every_global_generator():
    random.gauss(0, 1), np.random.randn()
    state = reread(world_state())
    drawn = [draw() for _ in range(3)]
    set_world_state(state)
    assert [draw() for _ in range(3)] == drawn
    set_world_state(state)
    assert [draw() for _ in range(3)] == drawn, "a state can be used again"


def test_a_state_does_not_move_on():
    state = world_state()
    before = state["torch"].clone()
    draw()
    assert torch.equal(state["torch"], before)


def test_kept():
    state = world_state()
    with kept_world():
        draw()
    drawn = draw()
    set_world_state(state)
    assert draw() == drawn


def test_gpus_that_are_not_here_are_left_out(monkeypatch):
    mine = {0: torch.tensor([1], dtype=torch.uint8), 1: torch.tensor([2], dtype=torch.uint8)}
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: list(mine.values()))
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: mine.update({device: state}))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    state = reread(world_state())
    mine = {0: None, 1: None}
    set_world_state(state)
    assert [int(value) for value in mine.values()] == [1, 2]
    mine = {0: None}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    set_world_state(state | {"cuda": [*state["cuda"], None]})
    assert {device: int(value) for device, value in mine.items()} == {0: 1}


@pytest.mark.parametrize(
    "damage",
    [
        {"torch": torch.zeros(3, dtype=torch.uint8)},
        {"numpy": {"bit_generator": "PCG64"}},
        {"python": (3, (1, 2), None)},
        {"cuda": None},
        None,
    ],
)
def test_a_damaged_state_is_refused_and_changes_nothing(damage):
    bad = {"python": random.getstate()} if damage is None else world_state() | damage
    state = world_state()
    random.random(), np.random.rand(), torch.rand(1)
    now = draw()
    set_world_state(state)
    random.random(), np.random.rand(), torch.rand(1)
    with pytest.raises(StateError, match=r"no random state of a run.*nothing was changed\. Resume from another"):
        set_world_state(bad)
    assert draw() == now


class Owning(Dataset):
    def __init__(self, seed=0, of=()):
        self.torch, self.python = torch.Generator().manual_seed(seed), random.Random(seed)
        self.bits = [np.random.Generator(kind(seed)) for kind in (np.random.PCG64, np.random.MT19937, np.random.Philox)]
        self.old, self.system, self.of = np.random.RandomState(seed), random.SystemRandom(), of
        self.elements = [torch.ones(1)] * 3

    def __len__(self):
        return 3

    def __getitem__(self, i):
        return [torch.rand((), generator=self.torch).item(), self.python.gauss(0, 1), self.old.randn()] + [
            generator.random() for generator in self.bits
        ]


def test_generators_are_found_where_loaders_keep_them():
    shared = torch.Generator()
    loader = DataLoader([1, 2], shuffle=True, generator=shared)
    assert generators(loader) == {"loader.generator": shared}, "once, though its sampler has it too"
    order = RandomSampler([1, 2], generator=shared)
    assert list(generators(DataLoader([1, 2], batch_sampler=BatchSampler(order, 2, False)))) == [
        "loader.batch_sampler.sampler.generator"
    ]
    assert generators(DataLoader([1, 2], generator=torch.default_generator)) == {}, "the global one is the world's"
    nested = DataLoader(ConcatDataset([Owning(1), Owning(2, of=[Owning(3)])]))
    names = [path.removeprefix("loader.dataset.") for path in generators(nested)]
    for dataset in ("datasets[0]", "datasets[1]", "datasets[1].of[0]"):
        assert {f"{dataset}.{name}" for name in ("torch", "python", "old", "bits[0]", "bits[2]")} <= set(names)
    assert not [name for name in names if "system" in name]


def test_generators_that_restore_themselves():
    class Restoring(Owning):
        def load_state_dict(self, state):
            raise NotImplementedError

    loader = DataLoader(Restoring())
    assert generators(loader)
    assert generators(loader, stateless=True) == {}


def test_generators_draw_again():
    dataset = Owning()
    owned = generators(DataLoader(dataset))
    dataset[0]
    state = reread(states(owned))
    drawn = [dataset[0] for _ in range(3)]
    fresh = Owning(9)
    restore(generators(DataLoader(fresh)), state)
    assert [fresh[0] for _ in range(3)] == drawn


@pytest.mark.parametrize("name", ["torch", "python", "old", "bits[0]"])
def test_the_state_of_another_generator_is_refused(name):
    owned = generators(DataLoader(Owning()))
    path = f"loader.dataset.{name}"
    other = next(key for key in owned if type(owned[key]) is not type(owned[path]))
    with pytest.raises(StateError, match=r"and what was saved is not of one .*Resume with the same loader"):
        restore({path: owned[path]}, {path: states(owned)[other]})
