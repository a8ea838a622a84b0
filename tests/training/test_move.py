"""Batches of every make arrive on the device as what they were."""

import types
from collections import OrderedDict, UserDict, defaultdict, namedtuple
from dataclasses import dataclass, field
from types import MappingProxyType, SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from cograd.training._move import move


class Named(NamedTuple):
    x: Any
    y: Any


@dataclass
class Plain:
    x: Any
    y: Any


@dataclass(frozen=True)
class Frozen:
    x: Any
    y: Any


@dataclass(frozen=True, slots=True)
class Slotted:
    x: Any
    y: Any


@dataclass
class Checked:
    """Would not survive being made again from its fields."""

    x: Any
    y: Any
    seen: int = field(default=0, init=False)

    def __post_init__(self):
        self.seen += 1


class List(list):
    pass


class Tuple(tuple):
    __slots__ = ()


def pair(make):
    return lambda x, y: make([x, y])


def keyed(make):
    return lambda x, y: make({"x": x, "y": y})


CONTAINERS = {
    "list": pair(list),
    "list of a subclass": pair(List),
    "tuple": pair(tuple),
    "tuple of a subclass": pair(Tuple),
    "namedtuple": namedtuple("Pair", "x y"),
    "NamedTuple": Named,
    "dict": keyed(dict),
    "OrderedDict": keyed(OrderedDict),
    "defaultdict": keyed(lambda parts: defaultdict(list, parts)),
    "UserDict": keyed(UserDict),
    "MappingProxyType": keyed(MappingProxyType),
    "SimpleNamespace": lambda x, y: SimpleNamespace(x=x, y=y),
    "dataclass": Plain,
    "frozen dataclass": Frozen,
    "frozen dataclass with slots": Slotted,
    "dataclass with __post_init__": Checked,
}


def parts(container):
    if isinstance(container, (list, tuple)):
        return list(container)
    if hasattr(container, "keys"):
        return list(container.values())
    return [container.x, container.y]


@pytest.mark.parametrize("make", CONTAINERS.values(), ids=CONTAINERS.keys())
def test_containers(make):
    leaf, there = torch.ones(2), torch.ones(3, device="meta")
    batch = make(leaf, {"inner": [there, "text", None, 3]})
    moved = move(batch, "meta")
    assert type(moved) is type(batch)
    first, second = parts(moved)
    assert first.device.type == "meta"
    assert second is parts(batch)[1], "a part that need not move is not copied"
    assert parts(batch)[0] is leaf, "the batch that was given is as it was"
    assert move(moved, "meta") is moved
    nested = move(make("text", make(leaf, 1.0)), "meta")
    assert parts(parts(nested)[1])[0].device.type == "meta"
    assert type(parts(nested)[1]) is type(batch)


def test_what_a_copy_keeps():
    assert move(defaultdict(list, x=torch.ones(1)), "meta")["new"] == []
    assert list(move({"b": torch.ones(1), "a": 1}, "meta")) == ["b", "a"]
    assert move(Checked(torch.ones(1), 1), "meta").seen == 1
    batch = Plain(torch.ones(1), 1)
    batch.note = "kept"
    assert move(batch, "meta").note == "kept"


def test_structures_of_torch():
    assert move(torch.ones(2, 2).max(0), "meta").indices.device.type == "meta"
    packed = move(pack_sequence([torch.ones(2)]), "meta")
    assert isinstance(packed, PackedSequence)
    assert packed.data.device.type == "meta"


def test_what_has_to_moves_itself():
    class Graph:
        at = "cpu"

        def to(self, device):
            moved = Graph()
            moved.at = device
            return moved

    assert move([Graph()], "meta")[0].at == torch.device("meta")
    assert move([Graph], "meta") == [Graph], "a class is no batch"


@pytest.mark.parametrize("leaf", [None, 3, 2.5, "text", b"bytes", {1, 2}, object(), torch.float32, types, len])
def test_other_leaves_stay(leaf):
    batch = [leaf, torch.ones(1)]
    assert move(leaf, "meta") is leaf
    assert move(batch, "meta")[0] is leaf


def test_never_asynchronous_on_the_way_to_the_cpu():
    asked = []

    class Spy(torch.Tensor):
        def to(self, device, non_blocking):
            asked.append((device.type, non_blocking))
            return self

    tensor = torch.ones(1).as_subclass(Spy)
    move(tensor, "cpu")
    move(tensor, "meta")
    move(tensor, "meta", non_blocking=False)
    assert asked == [("cpu", False), ("meta", True), ("meta", False)]


def test_gradients_flow_through():
    x = torch.ones(2, requires_grad=True)
    assert move({"x": x}, "cpu")["x"] is x
    assert move({"x": x}, "meta")["x"].requires_grad
