"""What a Joint does as a module would: train, eval, to, parameters; and its models as a mapping."""

import copy
from functools import partial

import pytest
import torch
from torch import nn

import cograd
import cograd._joint
from cograd.errors import ModelError, UnknownModelError
from cograd.weighting._contract import recalled

X = torch.linspace(-1, 1, 32).reshape(8, 4)


def losses(m, x):
    h = m.body(x)
    return {"size": m.head(h).float().square().mean(), "near": (h - m.teacher(x)).float().square().mean()}


def joint_of(dtype=torch.float32, **options):
    torch.manual_seed(0)
    models = {
        "body": nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)),
        "head": nn.Linear(3, 1),
        "teacher": nn.Linear(4, 3).requires_grad_(False).eval(),
    }
    options.setdefault("optimizers", partial(torch.optim.Adam, lr=0.01))
    return cograd.Joint(
        models={name: model.to(dtype) for name, model in models.items()},
        losses=lambda m, x: losses(m, x.to(dtype)),
        weighting=cograd.weighting.RunningMean(),
        accumulate=2,
        followers={"average": cograd.EMA("body", 0.9)},
        **options,
    )


def test_train_and_eval():
    """A frozen teacher and a follower stay in the modes that they were given."""
    joint = joint_of()
    assert joint.eval() is joint
    assert not any(module.training for model in joint.models.values() for module in model.modules())
    assert joint.train() is joint
    assert {name for name, model in joint.models.items() if model.training} == {"body", "head"}
    assert joint.models.body[1].training


def test_every_parameter_once():
    joint = joint_of()
    joint.models.body[0].bias = joint.models.body[0].bias  # tied parts are met twice
    found = list(joint.parameters())
    assert len(found) == len(set(found)) == 4 + 2 + 2 + 4


def tensors(value, where=""):
    if isinstance(value, torch.Tensor):
        yield where, value
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from tensors(part, f"{where}/{key}")
    elif isinstance(value, list | tuple):
        for i, part in enumerate(value):
            yield from tensors(part, f"{where}/{i}")


@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_everything_moves(monkeypatch, dtype, capturable):
    """To a device without values, since there may be no other here. A step's count stays where torch keeps it."""
    monkeypatch.setattr(cograd._joint, "usable_device", torch.device)
    monkeypatch.setattr(
        torch.__future__, "_swap_module_params_on_conversion", True
    )  # the same objects, as on the way to a GPU
    joint = joint_of(dtype, precision="bf16")
    for _ in range(3):
        joint.step(X)
    kept = {id(p) for p in joint.parameters()}
    before = {where: t.dtype for where, t in tensors(joint.state_dict())}
    for optimizer in joint.optimizers.values():
        optimizer.param_groups[0]["capturable"] = capturable
    assert joint.to("meta") is joint
    assert {id(p) for p in joint.parameters()} == kept
    here = [where for where, t in tensors(joint.state_dict()) if t.device.type != "meta"]
    assert all(where.endswith("/step") for where in here)
    assert len(here) == (0 if capturable else 6)
    after = {where: t.dtype for where, t in tensors(joint.state_dict())}
    assert after == before
    if dtype == torch.bfloat16:
        assert any("wide" in where for where in after)
    assert joint._precision.device == "meta"


def test_a_device_whose_parameters_are_others(monkeypatch, picture, same):
    monkeypatch.setattr(cograd._joint, "usable_device", torch.device)
    joint = joint_of()
    before = picture(joint)
    with pytest.raises(ModelError, match=r"On the way to meta, torch makes new parameters.*Move the models before"):
        joint.to("meta")
    same(before, picture(joint))


def test_a_move_that_leads_nowhere_changes_nothing(same):
    joint, other = joint_of(), joint_of()
    for _ in range(3):
        joint.step(X)
        other.step(X)
    same(copy.deepcopy(other.state_dict()), joint.to("cpu").state_dict())
    joint.step(X)
    other.step(X)
    same(other.state_dict(), joint.state_dict())


@pytest.mark.parametrize(
    ("device", "message"),
    [
        (torch.float64, r"Joint.to moves to a device; found torch.float64. Convert the models before"),
        ("meta", "would lose all values"),
        ("no such", r"Joint.to\('no such'\): cannot be used here .*Choose another"),
        (None, r"Joint.to\(None\)"),
        (joint_of, r"Joint.to\(the function joint_of"),
    ],
)
def test_where_it_cannot_move(device, message):
    with pytest.raises(ModelError, match=message):
        joint_of().to(device)


def test_what_a_rule_remembers_is_brought_to_where_the_losses_are():
    """As after a state was loaded from a file."""
    assert recalled({"a": torch.tensor(1.0)}, ["a", "b"], torch.ones(2, device="meta")).device.type == "meta"


def test_models_are_a_mapping():
    models = joint_of().models
    assert list(models.keys()) == list(models) == ["body", "head", "teacher", "average"]
    assert list(models.values()) == [models[name] for name in models]
    assert dict(models.items()) == dict(models)
    assert "head" in models
    assert "heads" not in models


@pytest.mark.parametrize("name", ["keys", "values", "items"])
def test_a_model_by_the_name_of_a_method_is_reached(name):
    net = nn.Linear(4, 1)
    joint = cograd.Joint(
        models={name: net},
        losses=lambda m, x: {"size": getattr(m, name)(x).square().mean()},
        optimizers=torch.optim.SGD,
    )
    joint.step(X)
    joint.evaluate(X)
    joint.load_state_dict(joint.state_dict())
    assert getattr(joint.models, name) is joint.models[name] is net
    with pytest.raises(UnknownModelError):
        joint.models["net"]
