"""Precision: autocast, and float16 gradients under one scale."""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.optim import LBFGS, SGD, Adam

from cograd import EMA, Fp16, Joint, alternate
from cograd.errors import NonFiniteLossError, OptimizerError, PrecisionError
from cograd.gramian import Layerwise, Rows
from cograd.weighting import FAMO, GradNorm, PCGrad, UPGrad

torch.manual_seed(0)
X, Y = torch.randn(16, 8), torch.randn(16, 2)


class Spike(torch.autograd.Function):
    """The identity, whose gradient is multiplied: an overflow where and when a test wants it."""

    @staticmethod
    def forward(ctx, x, factor):
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        return g * ctx.factor, None


def nets(seed=1):
    torch.manual_seed(seed)
    return {"trunk": nn.Sequential(nn.Linear(8, 16), nn.Tanh()), "a": nn.Linear(16, 1), "b": nn.Linear(16, 1)}


def losses(m, batch):
    x, y = batch[:2]
    h = m.trunk(x)
    a, b = m.a(h).float()[:, 0], m.b(h).float()[:, 0]
    if len(batch) > 2:
        a, b = Spike.apply(a, batch[2].get("a", 1.0)), Spike.apply(b, batch[2].get("b", 1.0))
    return {"a": (a - y[:, 0]).square().mean(), "b": (b - y[:, 1]).square().mean()}


ADAM = partial(Adam, lr=0.01)


def joint_of(models=None, optimizers=ADAM, **options):
    return Joint(models=models or nets(), losses=losses, optimizers=optimizers, **options)


def everything(models):
    return [p for model in models.values() for p in model.parameters()]


def same_parameters(a, b):
    return all(torch.equal(p, q) for p, q in zip(everything(a), everything(b), strict=True))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_bitwise_as_the_loop_by_hand(precision):
    mine, theirs = nets(), nets()
    joint = joint_of(mine, precision=precision)
    optimizer = Adam(everything(theirs), lr=0.01)
    scaler = torch.amp.GradScaler("cpu", enabled=precision == "fp16")
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    m = type("M", (), theirs)
    for _ in range(5):
        joint.step((X, Y))
        with torch.autocast("cpu", dtype):
            total = sum(losses(m, (X, Y)).values())
        optimizer.zero_grad()
        scaler.scale(total).backward()
        scaler.step(optimizer)
        scaler.update()
    assert same_parameters(mine, theirs)


def test_losses_are_weighed_in_float32():
    """A bfloat16 loss times 0.7 is not 0.7 of it."""

    def half(m, batch):
        return {"a": m.a(m.trunk(batch[0])).square().mean()}

    models = nets()
    del models["b"]
    joint = Joint(models=models, losses=half, optimizers=partial(SGD, lr=0.1), precision="bf16", weights={"a": 0.7})
    report = joint.step((X, Y))
    assert report.losses["a"].dtype == torch.bfloat16
    assert report.weighted["a"] == 0.7 * report.losses["a"].float()


def test_evaluation_and_plan_are_in_the_same_precision():
    kinds = []

    def looking(m, batch):
        kinds.append(m.trunk[0](batch[0]).dtype)
        return losses(m, batch)

    joint = Joint(models=nets(), losses=looking, optimizers=partial(SGD, lr=0.1), precision="bf16")
    joint.step((X, Y))
    joint.evaluate((X, Y))
    joint.plan((X, Y))
    assert kinds == [torch.bfloat16] * 3
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("precision", [None, "bf16", "fp16"])
def test_an_outer_region_is_refused(precision, picture, same):
    joint = joint_of(precision=precision)
    before = picture(joint)
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(PrecisionError, match="precision='bf16'"):
        joint.step((X, Y))
    same(before, picture(joint))


def gan(precision, phases, **options):
    """Both losses are of one size, and ``batch`` says which gradient overflows."""
    torch.manual_seed(2)
    models = {"gen": nn.Linear(8, 4), "disc": nn.Linear(4, 1)}

    def adversarial(m, batch):
        fake = m.gen(batch[0])
        return {
            "disc": lambda: Spike.apply(m.disc(fake).float(), batch[1].get("disc", 1.0)).square().mean(),
            "gen": lambda: Spike.apply(m.disc(fake).float() - 1, batch[1].get("gen", 1.0)).square().mean(),
        }

    return Joint(
        models=models,
        losses=adversarial,
        trains={"disc": "disc", "gen": "gen"},
        optimizers=partial(SGD, lr=0.1),
        precision=precision,
        phases=phases,
        **options,
    )


def moves(joint, batch):
    before = {name: joint.models[name].weight.detach().clone() for name in ("gen", "disc")}
    report = joint.step(batch)
    return {name: joint.models[name].weight.detach() - w for name, w in before.items()}, report


@pytest.mark.parametrize("first", ["gen", "disc"])
@pytest.mark.parametrize("phases", [None, alternate("disc", "gen"), alternate("gen", "disc")])
def test_an_overflow_in_one_does_not_double_the_update_of_the_other(first, phases):
    """Where the scale changes between two optimizers, the second update is exactly twice too large."""
    other = {"gen": "disc", "disc": "gen"}[first]
    joint = gan(Fp16(skip="one", scale=256.0), phases)
    alone = gan(Fp16(skip="one", scale=256.0), phases)
    alone.freeze(first)
    expected, _ = moves(alone, (X, {}))
    found, report = moves(joint, (X, {first: 1e30}))
    assert report.overflowed == (first,)
    assert not found[first].any()
    torch.testing.assert_close(found[other], expected[other])
    assert found[other].any()
    assert joint.state_dict()["precision"]["scale"] == 128.0


def test_skip_all_keeps_models_in_pace():
    joint = gan(Fp16(skip="all", scale=256.0), None)
    found, report = moves(joint, (X, {"disc": 1e30}))
    assert report.overflowed == ("disc",)
    assert not found["gen"].any()
    assert not found["disc"].any()
    assert joint.updates == {"gen": 0, "disc": 0}
    assert joint.steps == 1
    found, report = moves(joint, (X, {}))
    assert found["gen"].any()
    assert found["disc"].any()
    assert report.overflowed == ()


def test_skip_all_is_all_of_the_phase():
    joint = gan(Fp16(skip="all", scale=256.0), alternate("disc", "gen"))
    found, _ = moves(joint, (X, {"disc": 1e30}))
    assert not found["disc"].any()
    assert found["gen"].any()
    assert joint.updates == {"gen": 1, "disc": 0}


def test_the_scale_follows_that_of_torch():
    """One update per phase, overflow or not."""
    joint = joint_of(precision=Fp16(scale=1024.0, growth=3), optimizers=partial(SGD, lr=1e-3))
    model = nn.Linear(1, 1)
    optimizer = SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=3)
    for overflow in [False, False, True, False, False, False, False, True, True, False, False, False]:
        joint.step((X, Y, {"a": 1e30} if overflow else {}))
        optimizer.zero_grad()
        scaler.scale(model.weight.sum()).backward()
        if overflow:
            model.weight.grad.fill_(float("inf"))
        scaler.step(optimizer)
        scaler.update()
        assert joint.state_dict()["precision"]["scale"] == scaler.get_scale()


def test_an_overflow_leaves_optimizer_and_rule_as_they_were(same):
    joint = joint_of(precision=Fp16(scale=256.0), weighting=GradNorm())
    joint.step((X, Y))
    before = copy.deepcopy(joint.state_dict())
    report = joint.step((X, Y, {"a": 1e30}))
    assert report.overflowed
    after = copy.deepcopy(joint.state_dict())
    for key in ("models", "optimizers", "phases", "updates"):
        same(before[key], after[key])
    assert after["steps"] == before["steps"] + 1


def test_accumulation_drops_the_micro_batch_that_overflowed():
    """The window of the others is not lost, and the scale may change in the middle of it."""
    mine, expected = nets(), nets()
    joint = joint_of(mine, partial(SGD, lr=0.1), precision=Fp16(scale=256.0), accumulate=3)
    held = [joint.step((X[i : i + 4], Y[i : i + 4], extra)).held for i, extra in ((0, {}), (4, {"a": 1e30}), (8, {}))]
    assert held == [{"trunk": 1, "a": 1, "b": 1}, {"trunk": 1, "a": 1, "b": 1}, {}]
    other = joint_of(expected, partial(SGD, lr=0.1), precision=Fp16(scale=256.0), accumulate=2)
    for i in (0, 8):
        other.step((X[i : i + 4], Y[i : i + 4]))
    for p, q in zip(everything(mine), everything(expected), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)
    assert joint.updates == {"trunk": 1, "a": 1, "b": 1}


def test_two_models_that_accumulate_differently():
    """An overflow in the model that steps each time changes nothing of what the other one holds."""

    def run(scale):
        joint = gan(Fp16(skip="one", scale=scale), None, accumulate={"gen": 2})
        for i in range(4):
            joint.step((X, {"disc": 1e30} if i == 0 else {}))
        return joint

    a, b = run(256.0), run(2048.0)
    assert a.updates == {"gen": 2, "disc": 3}
    for name in ("gen", "disc"):
        torch.testing.assert_close(a.models[name].weight, b.models[name].weight, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("rule", [PCGrad(), UPGrad(), GradNorm()])
@pytest.mark.parametrize("engine", [Rows(), Layerwise()])
def test_gramians_are_unscaled(rule, engine):
    if isinstance(rule, GradNorm) and isinstance(engine, Rows):
        engine = None
    plain, half = joint_of(weighting=rule, gramian=engine), joint_of(weighting=rule, gramian=engine, precision="fp16")
    a, b = plain.step((X, Y)), half.step((X, Y))
    torch.testing.assert_close(a.gramian.matrix, b.gramian.matrix, rtol=2e-2, atol=1e-3)


def test_a_look_is_unscaled_and_changes_nothing():
    a, b = joint_of(precision="fp16", watch=1), joint_of(precision="fp16")
    for _ in range(3):
        report = a.step((X, Y))
        b.step((X, Y))
    plain = joint_of(watch=1).step((X, Y)).gramian
    assert same_parameters({n: a.models[n] for n in a.models}, {n: b.models[n] for n in b.models})
    assert 0.1 < report.gramian.matrix[0, 0] / plain.matrix[0, 0] < 10


def test_a_rule_that_looks_back_sees_no_skipped_update():
    joint = joint_of(weighting=FAMO(), precision=Fp16(scale=256.0))
    joint.step((X, Y))
    joint.step((X, Y, {"a": 1e30}))
    joint.step((X, Y))
    assert joint.updates == {"trunk": 2, "a": 2, "b": 2}


def test_reports_are_unscaled():
    plain, half = joint_of(grad_norms=True).step((X, Y)), joint_of(grad_norms=True, precision="fp16").step((X, Y))
    for name, norm in plain.grad_norms.items():
        torch.testing.assert_close(norm, half.grad_norms[name], rtol=1e-2, atol=1e-4)
    assert half.weights == {"a": 1.0, "b": 1.0}


def test_clipping_is_of_the_true_gradient():
    plain, half = nets(), nets()
    joint_of(plain, partial(SGD, lr=0.1), clip=0.01).step((X, Y))
    joint_of(half, partial(SGD, lr=0.1), clip=0.01, precision="fp16").step((X, Y))
    for p, q in zip(everything(plain), everything(half), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-4)


def test_a_loss_that_is_not_finite_is_no_matter_of_scale(picture, same):
    joint = joint_of(precision="fp16")
    before = picture(joint)
    with pytest.raises(NonFiniteLossError):
        joint.step((X * float("nan"), Y))
    same(before, picture(joint))


def test_gradients_that_overflow_at_every_scale(picture, same):
    joint = joint_of(precision=Fp16(scale=2.0**-19))
    joint.step((X, Y, {"a": float("inf")}))
    before = picture(joint)
    with pytest.raises(PrecisionError, match="at every scale"):
        joint.step((X, Y, {"a": float("inf")}))
    same(before, picture(joint))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_resumed_through_a_file(precision, tmp_path, same):
    if precision == "fp16":
        precision = Fp16(scale=1024.0, growth=2)
    build = partial(joint_of, precision=precision, accumulate=2, followers={"mean": EMA("trunk")}, clip=1.0)
    whole, first, second = build(nets()), build(nets()), build(nets(4))
    spike = {"a": 1e30} if precision != "bf16" else {}
    batches = [(X, Y), (X, Y, spike), (X, Y), (X, Y), (X, Y)]
    for batch in batches:
        whole.step(batch)
    for batch in batches[:3]:
        first.step(batch)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for batch in batches[3:]:
        second.step(batch)
    same(whole.state_dict(), second.state_dict())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Fp16(skip="none"), "'all' or 'one'; found 'none'"),
        (lambda: Fp16(scale=1000.0), "a power of two"),
        (lambda: Fp16(scale=float("nan")), "a power of two"),
        (lambda: Fp16(growth=0), "whole number of at least 1"),
        (lambda: joint_of(precision="half"), "found 'half'"),
        (lambda: joint_of(precision=torch.float16), "found torch.float16"),
        (lambda: joint_of({name: model.half() for name, model in nets().items()}, precision="fp16"), "stay float32"),
    ],
)
def test_refused(make, message):
    with pytest.raises(PrecisionError, match=message):
        make()


def test_refused_with_an_optimizer_that_evaluates_the_losses():
    models = nets()
    with pytest.raises(OptimizerError, match="precision='fp16'"):
        joint_of(models, LBFGS(everything(models)), precision="fp16")
