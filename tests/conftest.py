"""What several test files share: a picture of everything that a joint could change, and its comparison."""

import copy
from collections.abc import Mapping, Sequence

import pytest
import torch
from torch import Tensor


def _picture(joint):
    models = {name: joint.models[name] for name in joint.models}
    parameters = {f"{name}.{key}": p for name, model in models.items() for key, p in model.named_parameters()}
    return {
        "parameters": {key: p.detach().clone() for key, p in parameters.items()},
        "buffers": {f"{n}.{key}": b.clone() for n, model in models.items() for key, b in model.named_buffers()},
        "grad objects": {key: id(p.grad) for key, p in parameters.items()},
        "grads": {key: copy.deepcopy(p.grad) for key, p in parameters.items()},
        "requires_grad": {key: p.requires_grad for key, p in parameters.items()},
        "training": {f"{n}.{key}": m.training for n, model in models.items() for key, m in model.named_modules()},
        "optimizers": copy.deepcopy({name: o.state_dict() for name, o in joint.optimizers.items()}),
        "rest": copy.deepcopy({k: joint.state_dict()[k] for k in ("phases", "schedulers", "followers", "precision")}),
        "steps": joint.steps,
        "updates": dict(joint.updates),
    }


def _same(a, b, where="state"):
    if isinstance(a, Tensor):
        torch.testing.assert_close(b, a, rtol=0, atol=0, equal_nan=True, msg=lambda text: f"{where}: {text}")
    elif isinstance(a, Mapping):
        assert isinstance(b, Mapping), where
        assert list(a) == list(b), where
        for key in a:
            _same(a[key], b[key], f"{where}[{key!r}]")
    elif isinstance(a, Sequence) and not isinstance(a, str):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            _same(x, y, f"{where}[{i}]")
    else:
        assert type(a) is type(b), where
        assert a == b, where


@pytest.fixture(scope="session")
def picture():
    """``picture(joint)``: copies of all that a failed phase must leave as it was."""
    return _picture


@pytest.fixture(scope="session")
def same():
    """``same(a, b)``: equal bit for bit, dtypes included."""
    return _same
