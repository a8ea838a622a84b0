"""Checkpoints: what is kept, what is the best, what is refused, and what happens when the disk fails."""

import errno
import io
import itertools
import math
import os
import zipfile
from collections import Counter, OrderedDict, namedtuple
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam

from cograd import Joint
from cograd.errors import CheckpointError, StateError, TrainingError
from cograd.training._checkpoints import Checkpoints

Pair = namedtuple("Pair", "a b")


def state(step):
    return {"step": step, "x": torch.full((100,), float(step))}


def fill(folder, losses, **options):
    """A checkpoint for each loss, at steps 1, 2, ..."""
    with Checkpoints(folder, **{"best": "loss", **options}) as checkpoints:
        return [checkpoints.save(state(i), i, {"loss": loss}) for i, loss in enumerate(losses, 1)]


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


def steps(folder, kind="step"):
    return [int(name.split("-")[1]) for name in names(folder) if name.startswith(kind)]


def step_of(found):
    content, path = found
    assert path.exists()
    assert torch.equal(content["x"], state(content["step"])["x"])
    return content["step"]


def damage(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def toy(width=3, optimizer=Adam, name="net"):
    return Joint(
        models={name: nn.Linear(2, width)},
        losses=lambda m, x: {"loss": m[name](x).square().mean()},
        optimizers=partial(optimizer, lr=0.01),
    )


# what is kept


def test_a_state_comes_back_bit_for_bit(tmp_path, same):
    joint = toy()
    joint.step(torch.randn(4, 2))
    whole = {
        "joint": joint.state_dict(),
        "counter": Counter({3: 1}),
        "ordered": OrderedDict(a=1),
        "odd": [
            None,
            True,
            2**70,
            math.inf,
            1j,
            "é",
            b"\0",
            bytearray(b"x"),
            (),
            {1, 2},
            torch.float16,
            torch.Size([2]),
        ],
        "sparse": torch.eye(2).to_sparse(),
        "half": torch.randn(3).bfloat16(),
        "parameter": nn.Parameter(torch.randn(2)),
    }
    with Checkpoints(tmp_path) as checkpoints:
        path = checkpoints.save(whole, 7, {})
    back, where = Checkpoints(tmp_path).newest()
    assert where == path
    sparse = whole.pop("sparse"), back.pop("sparse")
    assert torch.equal(sparse[0].to_dense(), sparse[1].to_dense())
    same(whole, back)
    toy().load_state_dict(back["joint"])


def test_the_file_is_one_that_torch_reads_by_itself(tmp_path):
    path = fill(tmp_path, [0.5])[0]
    content = torch.load(path, weights_only=True)
    assert content["state"]["step"] == content["step"] == 1
    assert content["values"] == {"loss": 0.5}
    assert len(zipfile.ZipFile(path).namelist()) > 1


def test_a_storage_that_two_tensors_share_is_written_once(tmp_path):
    x = torch.randn(100_000)
    with Checkpoints(tmp_path) as checkpoints:
        path = checkpoints.save({"a": x, "b": x, "c": x[:10]}, 1, {})
    assert path.stat().st_size < 1.1 * x.nbytes
    back = Checkpoints(tmp_path).newest()[0]
    assert back["a"].data_ptr() == back["b"].data_ptr() == back["c"].data_ptr()


def test_no_folder_and_an_empty_folder_are_a_fresh_run(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        assert Checkpoints(folder).newest() is None
        with pytest.raises(CheckpointError, match=r"holds no best checkpoint; found none\. fit\(best="):
            Checkpoints(folder).best_state()
    assert not (tmp_path / "none").exists()
    with Checkpoints(tmp_path / "a" / "b") as checkpoints:
        assert checkpoints.newest() is None
        checkpoints.save(state(1), 1, {})
    assert step_of(Checkpoints(tmp_path / "a" / "b").newest()) == 1


def test_the_last_n_and_the_best_are_kept(tmp_path):
    fill(tmp_path, [5, 1, 4, 3, 2], keep=2)
    assert steps(tmp_path) == [4, 5]
    assert steps(tmp_path, "best") == [2]
    assert step_of(Checkpoints(tmp_path).newest()) == 5
    assert step_of(Checkpoints(tmp_path).best_state()) == 2


def test_other_files_stay(tmp_path):
    (tmp_path / "step-notes.pt").write_text("mine")
    (tmp_path / ".mine.tmp").write_text("mine")
    (tmp_path / ".step-00000001.123.tmp").write_text("what a killed write left")
    fill(tmp_path, [1, 2, 3], keep=1)
    assert {"step-notes.pt", ".mine.tmp"} < set(names(tmp_path))
    assert not list(tmp_path.glob(".step*"))


def test_a_second_checkpoint_of_a_step_replaces_the_first(tmp_path):
    with Checkpoints(tmp_path, keep=3) as checkpoints:
        checkpoints.save(state(1), 1, {})
        old = checkpoints.save(state(2), 2, {})
        copy = old.read_bytes()
        new = checkpoints.save({**state(2), "finished": True}, 2, {})
    assert steps(tmp_path) == [1, 2]
    old.write_bytes(copy)  # as if killed before it was removed
    found, path = Checkpoints(tmp_path).newest()
    assert path == new
    assert found["finished"]


def test_an_old_one_that_cannot_be_removed_is_told_and_tried_again(tmp_path, monkeypatch):
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        old = checkpoints.save(state(1), 1, {})
        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", failing(errno.EACCES, only=old))
            with pytest.warns(
                UserWarning, match=f"{old} cannot be removed .Permission denied.; the next save will try"
            ):
                checkpoints.save(state(2), 2, {})
        assert steps(tmp_path) == [1, 2]
        checkpoints.save(state(3), 3, {})
    assert steps(tmp_path) == [3]


def failing(number, only):
    real = Path.unlink

    def unlink(path, missing_ok=False):
        if path == only:
            raise OSError(number, os.strerror(number))
        real(path, missing_ok)

    return unlink


# the best


@pytest.mark.parametrize(
    ("losses", "higher", "best"),
    [
        ([3, 1, 2], False, 2),
        ([3, 1, 2], True, 1),
        ([1, 1, 1], False, 1),
        ([1, 1, 1], True, 1),
        ([math.nan, 5, math.nan], False, 2),
        ([5, math.nan], True, 1),
        ([math.inf, 2, -math.inf], False, 3),
    ],
)
def test_which_is_the_best(tmp_path, losses, higher, best):
    fill(tmp_path, losses, higher_is_better=higher, keep=1)
    assert step_of(Checkpoints(tmp_path).best_state()) == best
    assert steps(tmp_path, "best") == [best]


def test_only_nan_is_no_best(tmp_path):
    fill(tmp_path, [math.nan, math.nan])
    with pytest.raises(CheckpointError, match=r"holds no best checkpoint; found 'step-.*newest\(\)"):
        Checkpoints(tmp_path).best_state()


def test_the_best_is_remembered_by_a_run_that_goes_on(tmp_path):
    fill(tmp_path, [3, 1, 2], keep=1)
    with Checkpoints(tmp_path, keep=1, best="loss") as checkpoints:
        assert step_of(checkpoints.newest()) == 3
        checkpoints.save(state(4), 4, {"loss": 1})
        assert steps(tmp_path, "best") == [2]
        checkpoints.save(state(5), 5, {})  # nothing measured
        assert steps(tmp_path, "best") == [2]
        checkpoints.save(state(6), 6, {"other": 0})
        assert steps(tmp_path, "best") == [2]
        checkpoints.save(state(7), 7, {"loss": 0.5})
        assert steps(tmp_path, "best") == [7]


def test_another_value_that_decides_starts_anew_and_loses_nothing_before(tmp_path):
    fill(tmp_path, [1, 2])
    with Checkpoints(tmp_path, best="accuracy", higher_is_better=True) as checkpoints:
        checkpoints.newest()
        checkpoints.save(state(3), 3, {})
        assert steps(tmp_path, "best") == [1]
        checkpoints.save(state(4), 4, {"accuracy": 0.1})
        assert steps(tmp_path, "best") == [4]


def test_a_name_that_is_no_value_is_refused_at_the_first_that_has_values(tmp_path):
    with Checkpoints(tmp_path, best="val/los") as checkpoints:
        checkpoints.save(state(1), 1, {})  # nothing has been measured yet
        with pytest.raises(
            TrainingError, match=r"best='val/los' names no value\. Known values: 'val/loss', 'lr'\. Did "
        ):
            checkpoints.save(state(2), 2, {"val/loss": 1.0, "lr": 0.1})
    assert steps(tmp_path) == [1]


def test_without_links_the_best_is_a_copy(tmp_path, monkeypatch):
    def link(*_, **__):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    paths = fill(tmp_path, [3, 1, 2], keep=1)
    best = Checkpoints(tmp_path).best_state()[1]
    assert best.name.removeprefix("best") == paths[1].name.removeprefix("step")
    assert best.stat().st_nlink == 1
    assert step_of(Checkpoints(tmp_path).best_state()) == 2


# damage


@pytest.mark.parametrize("harm", ["a bit", "cut short", "empty"])
def test_a_damaged_newest_is_told_and_the_one_before_is_used(tmp_path, harm):
    paths = fill(tmp_path, [1, 2, 3])
    if harm == "a bit":
        damage(paths[2])
    else:
        os.truncate(paths[2], 0 if harm == "empty" else paths[2].stat().st_size - 1)
    with Checkpoints(tmp_path, best="loss") as checkpoints:
        with pytest.warns(
            UserWarning, match=f"{paths[2].name} is damaged or cut short .* Using {paths[1].name} instead"
        ):
            assert step_of(checkpoints.newest()) == 2
        new = checkpoints.save(state(3), 3, {"loss": 3})
    assert steps(tmp_path) == [1, 2, 3]
    assert Checkpoints(tmp_path).newest()[1] == new


def test_an_unreadable_newest_is_told_and_the_one_before_is_used(tmp_path, monkeypatch):
    paths = fill(tmp_path, [1, 2])
    real = Path.open

    def unreadable(path, *args, **options):
        if path == paths[1]:
            raise OSError(errno.EIO, "Input/output error")
        return real(path, *args, **options)

    monkeypatch.setattr(Path, "open", unreadable)
    with pytest.warns(UserWarning, match=f"{paths[1].name} cannot be read .Input/output error.* Using {paths[0].name}"):
        assert step_of(Checkpoints(tmp_path).newest()) == 1


def test_damaged_ones_do_not_push_out_good_ones(tmp_path):
    paths = fill(tmp_path, [1, 2, 3, 4], keep=3)
    for path in paths[2:]:
        damage(path)
    with Checkpoints(tmp_path, keep=3, best="loss") as checkpoints:
        with pytest.warns(UserWarning, match="2 problems"):
            checkpoints.newest()
        checkpoints.save(state(3), 3, {"loss": 9})
    assert steps(tmp_path) == [2, 3]
    assert step_of(Checkpoints(tmp_path).newest()) == 3


def test_when_none_is_good_it_says_so_and_nothing_is_removed(tmp_path):
    for path in fill(tmp_path, [1, 2]):
        damage(path)
    before = names(tmp_path)
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(CheckpointError, match=r"No checkpoint in .* can be used\. 3 problems:[\s\S]*Restore one"):
            checkpoints.newest()
        with pytest.raises(CheckpointError, match="not being continued"):
            checkpoints.save(state(1), 1, {})
    assert names(tmp_path) == before
    with pytest.raises(CheckpointError, match="can be used"):
        Checkpoints(tmp_path).best_state()


def test_a_best_one_that_is_damaged_is_told_and_the_next_takes_its_place(tmp_path):
    fill(tmp_path, [1, 3, 3], keep=1)
    damage(next(tmp_path.glob("best-*")))
    with Checkpoints(tmp_path, keep=1, best="loss") as checkpoints:
        with pytest.warns(UserWarning, match=r"The best checkpoint in .*, of step 1, is damaged or gone"):
            assert step_of(checkpoints.newest()) == 3
        checkpoints.save(state(4), 4, {})  # nothing measured, and not refused
        checkpoints.save(state(5), 5, {"loss": 2})
    assert step_of(Checkpoints(tmp_path).best_state()) == 5
    assert steps(tmp_path, "best") == [5]


def test_a_best_one_alone_is_a_run_that_goes_on(tmp_path):
    """As after a kill in the first save."""
    fill(tmp_path, [1])[0].unlink()
    assert step_of(Checkpoints(tmp_path).newest()) == 1


def test_a_reader_beside_a_run_finds_the_newest(tmp_path, monkeypatch):
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        first = checkpoints.save(state(1), 1, {})
        real = Path.open

        def overtaken(path, *args, **options):
            if path == first and first.exists():
                checkpoints.save(state(2), 2, {})
            return real(path, *args, **options)

        monkeypatch.setattr(Path, "open", overtaken)
        assert step_of(Checkpoints(tmp_path).newest()) == 2


def test_another_format_is_refused(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("cograd.training._checkpoints.FORMAT", 2)
        path = fill(tmp_path, [1])[0]
    with pytest.raises(CheckpointError, match=f"{path} has checkpoint format 2; this version of cograd reads 1"):
        Checkpoints(tmp_path).newest()


# what is refused


class Odd:
    pass


@pytest.mark.parametrize(
    ("value", "place"),
    [
        (Odd(), "state['joint']['phases'][0] (test_checkpoints.Odd)"),
        (np.float64(1), "state['joint']['phases'][0] (numpy.float64)"),
        (np.zeros(2), "state['joint']['phases'][0] (numpy.ndarray)"),
        (Pair(1, 2), "state['joint']['phases'][0] (test_checkpoints.Pair)"),
        ({"f": nn.ReLU()}, "state['joint']['phases'][0]['f'] (torch.nn.modules.activation.ReLU)"),
        ({Odd: 1}, "the key the class Odd of state['joint']['phases'][0] (builtins.type)"),
        (torch.Generator(), "state['joint']['phases'][0] (torch._C.Generator)"),
        (frozenset(), "state['joint']['phases'][0] (builtins.frozenset)"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_not_plain_is_refused_by_its_place_before_anything_is_written(tmp_path, value, place):
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(CheckpointError) as refused:
            checkpoints.save({"joint": {"phases": [value]}, "fine": 1}, 1, {})
        assert f"It is found at {place}." in str(refused.value).replace(f"{__name__}.", "test_checkpoints.")
    assert names(tmp_path) == []


def test_what_hides_in_attributes_is_found_too(tmp_path):
    hidden = nn.Linear(1, 1).state_dict()
    hidden._metadata["odd"] = Odd()
    tensor = torch.zeros(1)
    tensor.note = Odd()
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(CheckpointError) as refused:
            checkpoints.save({"m": hidden, "t": tensor}, 1, {})
        assert "state['m']._metadata['odd'] " in str(refused.value)
        assert "state['t'].note " in str(refused.value)


def test_a_state_that_holds_itself_is_saved(tmp_path):
    loop = [1]
    loop.append(loop)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save({"loop": loop}, 1, {})
    back = Checkpoints(tmp_path).newest()[0]["loop"]
    assert back[1] is back


@pytest.mark.parametrize("keep", [0, -1, 1.5, None])
def test_keep_must_be_a_number_of_checkpoints(tmp_path, keep):
    with pytest.raises(TrainingError, match=f"keep must be a whole number of checkpoints, at least 1; found {keep}"):
        Checkpoints(tmp_path, keep=keep)


def test_best_must_be_a_name(tmp_path):
    with pytest.raises(TrainingError, match="best must be the name of a value"):
        Checkpoints(tmp_path, best=1)


def test_a_run_does_not_write_over_another(tmp_path):
    before = [path.name for path in fill(tmp_path, [1, 2])]
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(CheckpointError, match=f"of a run that is not being continued .{before[1]}.. Resume it, or"):
            checkpoints.save(state(1), 1, {})
        checkpoints.newest()
        with pytest.raises(CheckpointError, match="A checkpoint of step 1 would come after that of step 2"):
            checkpoints.save(state(1), 1, {})
    assert [name for name in names(tmp_path) if name.startswith("step")] == before


def test_two_runs_in_one_folder_are_refused(tmp_path):
    with Checkpoints(tmp_path):
        with pytest.raises(
            CheckpointError, match=f"{tmp_path} is in use by process {os.getpid()} on .* another run_dir"
        ):
            Checkpoints(tmp_path).__enter__()
        with pytest.raises(CheckpointError, match="inside `with checkpoints:`"):
            Checkpoints(tmp_path).save({}, 1, {})
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state(1), 1, {})


def test_a_folder_that_cannot_be_locked_is_told(tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", unsupported)
    with pytest.warns(UserWarning, match=r"cannot be locked .Function not implemented.: start no second run"):
        fill(tmp_path, [1])
    assert step_of(Checkpoints(tmp_path).newest()) == 1


def test_a_file_in_place_of_the_folder(tmp_path):
    path = tmp_path / "file"
    path.write_text("mine")
    for read in (Checkpoints(path).newest, Checkpoints(path).__enter__):
        with pytest.raises(CheckpointError, match="A file is in its place: choose another place"):
            read()
    assert path.read_text() == "mine"


def test_the_checkpoint_of_another_architecture_is_refused_difference_by_difference(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save({"joint": toy(width=3).state_dict()}, 1, {})
    saved = Checkpoints(tmp_path).newest()[0]["joint"]
    with pytest.raises(StateError) as refused:
        toy(width=5, optimizer=SGD).load_state_dict(saved)
    for difference in (
        "net.weight is (5, 2) torch.float32 in the model, (3, 2) torch.float32 in the state.",
        "net.bias is (5,) torch.float32 in the model, (3,) torch.float32 in the state.",
        "optimizer 'net' is SGD; the state is of Adam.",
    ):
        assert difference in str(refused.value)


# a disk that fails


class Filling(io.FileIO):
    """A file on a disk that takes ``room`` bytes more."""

    room = 0

    def write(self, data):
        if len(data) > Filling.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        Filling.room -= len(data)
        return super().write(data)


@pytest.mark.parametrize("room", [0, 10_000, 399_000])
def test_a_disk_that_fills_up_while_a_checkpoint_is_written(tmp_path, monkeypatch, room):
    large = {"step": 3, "x": torch.full((100_000,), 3.0)}
    fill(tmp_path, [1, 2])
    before = names(tmp_path)
    real = Path.open
    with Checkpoints(tmp_path, best="loss") as checkpoints:
        _, newest = checkpoints.newest()
        with monkeypatch.context() as patch:
            patch.setattr(Filling, "room", room)
            patch.setattr(
                Path, "open", lambda p, mode: io.BufferedWriter(Filling(p, "wb")) if mode == "wb" else real(p, mode)
            )
            with pytest.raises(CheckpointError) as refused:
                checkpoints.save(large, 3, {"loss": 0})
        assert str(refused.value) == (
            f"No checkpoint of step 3 in {tmp_path}: No space left on device. Free some space, or choose another "
            f"place. Earlier ones are untouched; the newest is {newest.name}."
        )
        assert refused.value.errno == errno.ENOSPC
        assert names(tmp_path) == before
        assert step_of(Checkpoints(tmp_path).newest()) == 2
        assert step_of(Checkpoints(tmp_path).best_state()) == 1
        checkpoints.save(large, 3, {"loss": 0})  # there is room again
    assert Checkpoints(tmp_path).best_state()[0]["x"].sum() == 300_000


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_disk_that_fails_at_any_call_and_from_then_on(tmp_path, monkeypatch, number):
    refused = []
    for call in itertools.count():
        folder = tmp_path / str(call)
        fill(folder, [1, 2])
        before = names(folder)
        with Checkpoints(folder, best="loss") as checkpoints:
            checkpoints.newest()
            with monkeypatch.context() as patch:
                failed = fail_after(patch, call, number)
                try:
                    checkpoints.save(state(3), 3, {"loss": 0})
                except CheckpointError as error:
                    refused.append((str(error), error.errno, names(folder) == before))
            if failed:
                said = f"No checkpoint of step 3 in {folder}: {os.strerror(number)}. "
                assert refused[-1][0].startswith(said)
                assert refused[-1][0].endswith(f" the newest is {before[-1]}.")
                assert refused[-1][1:] == (number, True)
            assert len(refused) == call + bool(failed)
            if not failed:
                break
            checkpoints.save(state(3), 3, {"loss": 0})
        assert step_of(Checkpoints(folder).newest()) == step_of(Checkpoints(folder).best_state()) == 3
    assert call >= 6


def fail_after(patch, calls, number):
    """Let that many calls through, then fail all; the list is empty as long as none has."""
    left, failed = [calls], []

    def counted(function):
        def call(*args, **options):
            left[0] -= 1
            if left[0] < 0:
                failed.append(function)
                raise OSError(number, os.strerror(number))
            return function(*args, **options)

        return call

    for name in ("fsync", "link", "open", "replace"):
        patch.setattr(os, name, counted(getattr(os, name)))
    return failed


def test_an_interrupt_while_a_checkpoint_is_written_stays_one(tmp_path, monkeypatch):
    before = [path.name for path in fill(tmp_path, [1])]

    class Interrupted(io.FileIO):
        def write(self, data):
            raise KeyboardInterrupt

    real = Path.open
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.newest()
        monkeypatch.setattr(
            Path, "open", lambda p, mode: io.BufferedWriter(Interrupted(p, "wb")) if mode == "wb" else real(p, mode)
        )
        with pytest.raises(KeyboardInterrupt):
            checkpoints.save({"x": torch.zeros(100_000)}, 2, {})
    assert [name for name in names(tmp_path) if not name.startswith("best")] == before


def test_a_folder_system_that_syncs_no_folders(tmp_path, monkeypatch):
    real = os.fsync

    def files_only(descriptor):
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.EINVAL, "Invalid argument")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", files_only)
    fill(tmp_path, [1])
    assert step_of(Checkpoints(tmp_path).newest()) == 1
