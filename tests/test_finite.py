"""What is NaN or infinite is refused before anything moves: losses, and gradients of losses that are finite."""

import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.optim import LBFGS, SGD, Adam
from torch.utils._python_dispatch import TorchDispatchMode

import cograd
from cograd import Joint, weighting
from cograd._finite import _one
from cograd._precision import Precision
from cograd.errors import NonFiniteLossError, PrecisionError
from cograd.gramian import Rows
from cograd.gramian._gram import Gram

GOOD, ZERO = torch.randn(4, 2, generator=torch.Generator().manual_seed(1)), torch.zeros(4, 2)


def rooted(m, x):
    """The root of zero is finite, and its derivative is not: NaN for the norm, infinite for a single root."""
    return {"y": m["net"](x).square().sum(1).sqrt().mean(), "z": m["other"](x).square().mean()}


ADAM = partial(Adam, lr=0.01)


def build(losses=rooted, optimizers=ADAM, **options):
    torch.manual_seed(0)
    models = {"net": nn.Linear(2, 2, bias=False), "other": nn.Linear(2, 1)}
    return Joint(models=models, losses=losses, optimizers=optimizers, **options)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"clip": 1.0},
        {"clip": {"other": 1.0}},
        {"clip": cograd.Clip(value=0.1)},
        {"grad_norms": True},
        {"accumulate": 3},
        {"accumulate": {"net": 2}, "clip": 1.0},
        {"phases": cograd.alternate("other", "net")},
        {"precision": "bf16"},
        {"watch": 1},
        {"followers": {"slow": cograd.EMA("net")}},
    ],
    ids=str,
)
def test_a_gradient_of_nan_of_a_finite_loss_moves_nothing(options, picture, same):
    joint = build(**options, freeze_buffers=True)
    joint.step(GOOD)
    before = picture(joint)
    with pytest.raises(NonFiniteLossError, match=r"the gradient of net\.weight is NaN, though every loss is finite"):
        joint.step(ZERO)
    after = picture(joint)
    if "phases" in options:  # the phase before it is complete
        same(before["parameters"]["net.weight"], after["parameters"]["net.weight"])
    else:
        same(before, after)
    joint.step(GOOD)
    assert all(p.isfinite().all() for p in joint.models["net"].parameters())


@pytest.mark.parametrize("engine", [None, Rows()])
def test_under_a_rule_that_looks_at_gradients(engine, picture, same):
    def losses(m, x):
        h = m["net"](x)
        return {"y": h.square().sum(1).sqrt().mean(), "z": m["other"](h).square().mean()}

    joint = build(losses, weighting=weighting.UPGrad(), gramian=engine)
    joint.step(GOOD)
    before = picture(joint)
    with pytest.raises(NonFiniteLossError, match="gradient of loss 'y' on what it shares is NaN"):
        joint.step(ZERO)
    same(before, picture(joint))


def test_under_a_rule_that_forms_no_gradients(picture, same):
    torch.manual_seed(0)
    wide = {"net": nn.Sequential(nn.Linear(2, 64), nn.Tanh(), nn.Linear(64, 64)), "other": nn.Linear(64, 1)}

    def losses(m, x):
        h = m["net"](x[:, :2] * x[:, 2:]) * x[:, 2:]
        return {"y": h.square().sum(1).sqrt().mean(), "z": m["other"](h).square().mean()}

    joint = Joint(models=wide, losses=losses, optimizers=ADAM, weighting=weighting.UPGrad())
    ones = torch.ones(4, 1)
    assert joint.step(torch.cat([GOOD, ones], 1)).gramian.how == ("layer by layer",)
    before = picture(joint)
    with pytest.raises(NonFiniteLossError, match="gradient of loss 'y' on what it shares is NaN"):
        joint.step(torch.cat([GOOD, 0 * ones], 1))
    same(before, picture(joint))


def test_an_infinite_gradient():
    joint = build(lambda m, x: {"y": (m["net"](x).sum() ** 2 + 0.0).sqrt().sqrt() + m["other"](x).mean()})
    with pytest.raises(NonFiniteLossError, match=r"the gradient of net\.weight is"):
        joint.step(ZERO)


def test_a_closure(picture, same):
    joint = build(optimizers=lambda params: LBFGS(params), phases=cograd.alternate("other", "net"))
    joint.step(GOOD)
    before = picture(joint)
    with pytest.raises(NonFiniteLossError, match=r"the gradient of net\.weight is NaN"):
        joint.step(ZERO)
    same(before["parameters"]["net.weight"], picture(joint)["parameters"]["net.weight"])


DTYPES = {"complex": torch.cfloat, "float64": torch.float64, "bfloat16": torch.bfloat16}


@pytest.mark.parametrize("kind", ["sparse", *DTYPES])
def test_every_kind_of_gradient(kind):
    net = nn.Embedding(3, 2, sparse=True) if kind == "sparse" else nn.Linear(3, 2, dtype=DTYPES[kind])
    x = torch.tensor([0, 0, 2]) if kind == "sparse" else torch.ones(4, 3, dtype=DTYPES[kind])
    joint = Joint(
        models={"net": net},
        losses=lambda m, scale: {"y": (m["net"](x).abs() * scale).sum().sqrt()},
        optimizers=partial(SGD, lr=0.1),
    )
    joint.step(1.0)
    before = net.weight.detach().clone()
    with pytest.raises(NonFiniteLossError, match=r"the gradient of net\.weight is NaN"):
        joint.step(0.0)
    assert torch.equal(net.weight, before)


@pytest.mark.parametrize("check", ["now", "late"])
def test_what_only_float64_can_hold_is_no_alarm(check):
    net = nn.Linear(1, 1, bias=False).double()
    nn.init.ones_(net.weight)
    joint = Joint(
        models={"net": net},
        losses=lambda m, x: {"y": m["net"](x).sum()},
        optimizers=partial(SGD, lr=1e-300),
        check=check,
        grad_norms=True,
    )
    joint.step(torch.full((1, 1), 1e300, dtype=torch.float64))
    joint.step(torch.zeros(1, 1, dtype=torch.float64))
    assert net.weight.item() == pytest.approx(0.0)


@pytest.mark.parametrize("precision", [None, "fp16"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_default_dtype_is_free(dtype, precision, monkeypatch):
    monkeypatch.setattr("cograd._finite._one", _one.__wrapped__)
    torch.set_default_dtype(dtype)
    try:
        joint = build(lambda m, x: {"y": rooted(m, x.to(dtype))["y"].float()}, precision=precision)
        joint.freeze("other")
        joint.step(GOOD)
        if precision:
            assert joint.step(ZERO).overflowed
        else:
            with pytest.raises(NonFiniteLossError, match=r"the gradient of net\.weight is NaN"):
                joint.step(ZERO)
    finally:
        torch.set_default_dtype(torch.float32)


def test_late_tells_it_one_run_later_and_off_never():
    late, off = build(check="late"), build(check="off")
    for joint in (late, off):
        joint.step(ZERO)
    with pytest.raises(
        NonFiniteLossError, match="a gradient was NaN or infinite; one step ago; its update has been made"
    ):
        late.step(GOOD)
    off.step(GOOD)
    assert off.models["net"].weight.isnan().any()


def test_fit_leaves_such_a_batch_out():
    joint = build()
    history = cograd.fit(joint, [GOOD, ZERO, GOOD], epochs=2, non_finite="skip", progress=False)
    assert history.steps == 4
    assert all(p.isfinite().all() for p in joint.models["net"].parameters())


def test_float16_takes_it_for_an_overflow_until_no_scale_is_small_enough():
    joint = build(precision=cograd.Fp16(scale=2.0**-18))
    for _ in range(2):
        assert joint.step(ZERO).overflowed
    with pytest.raises(PrecisionError, match="look for NaN in a backward pass"):
        joint.step(ZERO)
    assert all(p.isfinite().all() for p in joint.models["net"].parameters())


# -- what the host waits for -------------------------------------------------------------------------------------------


class Reads(TorchDispatchMode):
    """Counts the numbers that are read from tensors."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def shared(m, x):
    h = m["net"](x)
    return {"y": h.square().mean(), "z": m["other"](h).mean()}


@pytest.mark.parametrize(
    ("options", "off", "now"),
    [
        ({}, 0, 1),
        ({"phases": cograd.alternate("net", "other")}, 0, 2),
        ({"trains": {"y": "net", "z": "other"}}, 0, 1),
        ({"weights": {"y": 0.5}}, 0, 1),
        ({"weighting": weighting.FirstValue()}, 0, 1),
        ({"weighting": weighting.UPGrad()}, 1, 2),
        ({"weighting": weighting.UPGrad(), "gramian": Rows()}, 1, 2),
        ({"clip": 1.0}, 0, 1),
        ({"accumulate": 2, "grad_norms": True, "followers": {"slow": cograd.EMA("net")}}, 0, 1),
        ({"precision": "fp16"}, 1, 2),
    ],
    ids=str,
)
def test_a_phase_waits_this_often(options, off, now, monkeypatch):
    """On the CPU a transfer cannot be seen, so those of Gramians and of float16's flags are counted where they are."""
    transfers = []

    def counted(original):
        return lambda *args: transfers.append(1) or original(*args)

    monkeypatch.setattr(Gram, "done", counted(Gram.done))
    monkeypatch.setattr(Precision, "unscale", counted(Precision.unscale))
    for check, most in (("off", off), ("now", now)):
        joint = build(shared, partial(SGD, lr=0.01), check=check, **options)
        joint.step(GOOD)
        transfers.clear()
        with Reads() as reads:
            joint.step(GOOD)
        assert reads.count + len(transfers) == most, check


def test_reports_are_read_when_asked():
    report = build(shared, grad_norms=True).step(GOOD)
    assert all(isinstance(x, torch.Tensor) for x in [*report.losses.values(), *report.grad_norms.values()])
    assert math.isfinite(report.losses["y"])
