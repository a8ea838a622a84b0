"""export: one model as safetensors, whole or not at all."""

import errno
import os
import resource

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, load_model
from torch import nn

from cograd import Joint
from cograd.errors import CheckpointError, ModelError
from cograd.training._export import export


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.out = nn.Linear(3, 5, bias=False)
        self.out.weight = self.embed.weight


class Extra(nn.Linear):
    def get_extra_state(self):
        return "text"


class Sparse(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("links", torch.eye(3).to_sparse())


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)),
        Tied,
        lambda: nn.Conv2d(2, 4, 3).to(memory_format=torch.channels_last),
        lambda: nn.LSTM(2, 3),
        lambda: nn.Linear(2, 3).bfloat16(),
        nn.ReLU,
    ],
    ids=["buffers", "tied", "strides", "lstm", "bfloat16", "nothing"],
)
def test_what_is_written_comes_back(tmp_path, make, same):
    model, other = make(), make()
    path = export(model, tmp_path / "model.safetensors")
    assert load_model(other, path) == (set(), [])
    same(model.state_dict(), other.state_dict())
    with safe_open(path, "pt") as file:
        assert file.metadata()["format"] == "pt"
    assert os.listdir(tmp_path) == ["model.safetensors"]


def test_a_tensor_of_two_names_is_written_once(tmp_path):
    path = export(Tied(), str(tmp_path / "tied.safetensors"))
    assert list(load_file(path)) == ["embed.weight"]
    with safe_open(path, "pt") as file:
        assert file.metadata()["out.weight"] == "embed.weight"


def test_a_model_of_a_joint_in_place_of_an_older_file(tmp_path):
    joint = Joint(
        models={"gen": nn.Linear(2, 1)}, losses=lambda m, x: {"loss": m.gen(x).mean()}, optimizers=torch.optim.Adam
    )
    path = tmp_path / "gen.safetensors"
    path.write_text("older")
    joint.step(torch.randn(3, 2))
    export(joint.models.gen, path)
    assert torch.equal(load_file(path)["weight"], joint.models.gen.weight)


def test_a_compiled_model_has_the_names_of_the_model(tmp_path):
    model = nn.Linear(2, 1)
    assert sorted(load_file(export(torch.compile(model, backend="eager"), tmp_path / "x"))) == ["bias", "weight"]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (torch.zeros(1), r"export takes an nn.Module, such as joint.models.gen; found a float32 tensor of shape"),
        (nn.LazyLinear(2), "'weight', 'bias' of LazyLinear is none"),
        (Extra(1, 1), "'_extra_state' of Extra is none"),
        (nn.Linear(1, 1, device="meta"), "'weight', 'bias' of Linear is none"),
        (Sparse(), "'links' of Sparse is none"),
    ],
    ids=["tensor", "lazy", "extra", "meta", "sparse"],
)
def test_what_safetensors_cannot_hold_is_refused(tmp_path, model, message):
    with pytest.raises(ModelError, match=message):
        export(model, tmp_path / "x")
    assert os.listdir(tmp_path) == []


def test_tensors_that_overlap_in_part_are_refused(tmp_path):
    both = torch.randn(10)
    model = nn.Module()
    model.register_buffer("a", both[:6])
    model.register_buffer("b", both[4:])
    with pytest.raises(ModelError, match=r"Module cannot be written as safetensors: [\s\S]*None is covering"):
        export(model, tmp_path / "x")
    assert os.listdir(tmp_path) == []


def test_no_such_folder(tmp_path):
    with pytest.raises(CheckpointError, match=r"none/x was not written: No such file or directory. Make the folder"):
        export(nn.Linear(1, 1), tmp_path / "none" / "x")


@pytest.mark.parametrize("stage", ["fsync", "replace"])
def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch, stage):
    path = tmp_path / "x"
    path.write_text("older")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, stage, full)
    with pytest.raises(CheckpointError, match=r"No space left on device\. Free some space") as refused:
        export(nn.Linear(1, 1), path)
    assert refused.value.errno == errno.ENOSPC
    assert os.listdir(tmp_path) == ["x"]
    assert path.read_text() == "older"


def test_a_file_that_may_not_become_so_large(tmp_path):
    path = tmp_path / "x"
    path.write_text("older")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(CheckpointError, match="x was not written: "):
            export(nn.Linear(1000, 1000), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.listdir(tmp_path) == ["x"]
    assert path.read_text() == "older"
