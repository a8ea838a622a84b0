"""What an exception leaves: the phase that failed never happened, the phases before it did."""

import pytest
import torch
from torch import nn
from torch.optim import LBFGS, SGD, Adam
from torch.utils.checkpoint import checkpoint

from cograd import Joint, alternate
from cograd.errors import (
    CogradError,
    NonFiniteLossError,
    PartialStepError,
    PassError,
    UnreachedError,
)
from cograd.weighting import RunningMean, Weighting

X = torch.linspace(-1, 1, 32).reshape(8, 4)


class InjectedError(Exception):
    pass


class Fails(torch.autograd.Function):
    """The identity, whose backward raises."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        raise InjectedError("backward")


class Fragile(Weighting):
    """A running mean that cannot bear a loss above a thousand."""

    __slots__ = ()
    remembers = True

    def weigh(self, seen, state):
        weights, state = RunningMean(beta=0.5).weigh(seen, state)
        if seen.losses.max() > 1000:
            raise InjectedError("weighting")
        return weights, state


class Brittle(SGD):
    """SGD that fails before or after it has moved, when told to."""

    fails = None

    def step(self, closure=None):
        if self.fails == "before":
            raise InjectedError("optimizer")
        super().step(closure)
        if self.fails == "after":
            raise InjectedError("optimizer")


def build(phases=None, second=Adam):
    """A small GAN whose batches say what goes wrong: ``{"disc": ..., "gen": ...}`` changes a loss."""
    torch.manual_seed(5)
    gen = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Tanh())
    models = {"gen": gen, "disc": nn.Linear(3, 1)}

    def losses(m, change):
        if (how := change.get("losses")) is not None:
            how()
        score = m.disc(m.gen(X))
        return {
            "disc": lambda: change.get("disc", torch.Tensor.clone)((score - 1).square().mean()),
            "gen": lambda: change.get("gen", torch.Tensor.clone)(score.square().mean()),
        }

    return Joint(
        models=models,
        losses=losses,
        trains={"disc": "disc", "gen": "gen"},
        optimizers={
            "gen": Brittle(gen.parameters(), 0.05, momentum=0.9),
            "disc": second(models["disc"].parameters()),
        },
        weighting=Fragile(),
        phases=phases,
    )


def raises(error):
    def change(*_):
        raise error

    return change


def stray(loss):
    return loss + nn.Parameter(torch.ones(3)).sum()


def reentrant(loss):
    return loss + checkpoint(lambda z: z * 2, loss, use_reentrant=True)


STAGES = {
    "losses function": ({"losses": raises(InjectedError())}, InjectedError),
    "interrupt": ({"losses": raises(KeyboardInterrupt())}, KeyboardInterrupt),
    "exit": ({"losses": raises(SystemExit())}, SystemExit),
    "first lazy loss": ({"disc": raises(InjectedError())}, InjectedError),
    "second lazy loss": ({"gen": raises(InjectedError())}, InjectedError),
    "interrupted lazy loss": ({"gen": raises(KeyboardInterrupt())}, KeyboardInterrupt),
    "planning": ({"gen": stray}, CogradError),
    "planning, checkpoint": ({"gen": reentrant}, PassError),
    "reach": ({"gen": lambda loss: loss.detach().requires_grad_() * 2}, UnreachedError),
    "weighting": ({"gen": lambda loss: loss + 2000}, InjectedError),
    "first pass": ({"disc": Fails.apply}, InjectedError),
    "second pass": ({"gen": Fails.apply}, InjectedError),
    "finite check": ({"gen": lambda loss: loss * torch.nan}, NonFiniteLossError),
}
PLANNING = {"planning", "planning, checkpoint"}  # the graph is looked at before the first step


def give_gradients(joint):
    """Leave partial sums in ``.grad``, as a user who accumulates does."""
    for name in joint.models:
        for i, p in enumerate(joint.models[name].parameters()):
            p.grad = torch.full_like(p, 3.0 + i)


def without_buffers(state):
    return {key: value for key, value in state.items() if key != "buffers"}


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("stage", STAGES)
def test_a_failure_before_the_first_optimizer_undoes_the_phase(stage, steps, picture, same):
    change, kind = STAGES[stage]
    joint = build()
    for _ in range(0 if stage in PLANNING else steps):
        joint.step({})
    give_gradients(joint)
    before = picture(joint)
    with pytest.raises(kind):
        joint.step(change)
    same(without_buffers(before), without_buffers(picture(joint)))


@pytest.mark.parametrize("stage", STAGES)
def test_after_a_failure_the_next_good_step_is_as_if_nothing_had_been(stage, picture, same):
    change, kind = STAGES[stage]
    joint, twin = build(), build()
    give_gradients(joint)
    with pytest.raises(kind):
        joint.step(change)
    joint.models.gen[1].load_state_dict(twin.models.gen[1].state_dict())  # running statistics are not rolled back
    for _ in range(3):
        joint.step({})
        twin.step({})
    same(picture(twin), picture(joint))


@pytest.mark.parametrize("stage", STAGES)
def test_a_phase_that_completed_stays_when_the_next_one_fails(stage, picture, same):
    change, kind = STAGES[stage]
    change = {"gen" if key == "disc" else key: how for key, how in change.items()}
    joint, twin = build(alternate("disc", "gen")), build(alternate("disc", "gen"))
    steps = 0 if stage in PLANNING else 1
    for each in (joint, twin):
        for _ in range(steps):
            each.step({})
        give_gradients(each)
    calls = []

    def second_time():
        calls.append(1)
        if len(calls) == 2:
            change["losses"]()

    with pytest.raises(kind):
        joint.step(change | ({"losses": second_time} if "losses" in change else {}))
    with pytest.raises(InjectedError):
        twin.step({"gen": raises(InjectedError())})
    assert joint.updates == {"gen": steps, "disc": steps + 1}
    assert joint.steps == steps
    assert all(p.grad is None for p in joint.models.disc.parameters())
    assert all((p.grad == 3 + i).all() for i, p in enumerate(joint.models.gen.parameters()))
    left = picture(joint)
    left.pop("grad objects")
    expected = picture(twin)
    expected.pop("grad objects")
    same(without_buffers(expected), without_buffers(left))


def test_the_first_phase_alone_moved_its_own_model(picture, same):
    joint = build(alternate("disc", "gen"))
    before = picture(joint)
    with pytest.raises(InjectedError):
        joint.step({"gen": raises(InjectedError())})
    after = picture(joint)
    moved = {key for key in before["parameters"] if not before["parameters"][key].equal(after["parameters"][key])}
    assert moved == {"disc.weight", "disc.bias"}
    same(before["optimizers"]["gen"], after["optimizers"]["gen"])
    assert after["optimizers"]["disc"]["state"][0]["step"].item() == 1
    same(before["rest"]["phases"][1], after["rest"]["phases"][1])
    assert after["rest"]["phases"][0]["weighting"]["steps"] == 1


# -- optimizers that fail --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["before", "after"])
def test_the_first_optimizer_fails(when):
    joint = build()
    joint.step({})
    joint.optimizers["gen"].fails = when
    give_gradients(joint)
    held = {p: p.grad for name in joint.models for p in joint.models[name].parameters()}
    disc = joint.models.disc.weight.clone()
    with pytest.raises(PartialStepError) as caught:
        joint.step({})
    assert caught.value.failed == "gen"
    assert caught.value.stepped == ()
    assert isinstance(caught.value, RuntimeError)
    for words in ("optimizer 'gen' failed", "InjectedError: optimizer", "none had stepped before", "last checkpoint"):
        assert words in str(caught.value)
    assert isinstance(caught.value.__cause__, InjectedError)
    assert joint.models.disc.weight.equal(disc)
    assert all(p.grad is g for p, g in held.items())
    assert joint.updates == {"gen": 1, "disc": 1}
    assert joint.steps == 1


@pytest.mark.parametrize("when", ["before", "after"])
def test_the_second_optimizer_fails(when):
    joint = build(second=Brittle)
    joint.step({})
    joint.optimizers["disc"].fails = when
    give_gradients(joint)
    held = {p: p.grad for name in joint.models for p in joint.models[name].parameters()}
    with pytest.raises(PartialStepError) as caught:
        joint.step({})
    assert caught.value.failed == "disc"
    assert caught.value.stepped == ("gen",)
    assert "'gen' had already stepped" in str(caught.value)
    assert all(p.grad is g for p, g in held.items())
    assert all(p.requires_grad for p in held)


def test_an_optimizer_that_fails_in_the_second_phase_names_only_those_of_that_phase():
    joint = build(alternate("disc", "gen"))
    joint.optimizers["gen"].fails = "before"
    with pytest.raises(PartialStepError) as caught:
        joint.step({})
    assert (caught.value.failed, caught.value.stepped) == ("gen", ())
    assert joint.updates == {"gen": 0, "disc": 1}
    joint.optimizers["gen"].fails = None
    joint.step({})
    assert joint.updates == {"gen": 1, "disc": 2}


# -- LBFGS: the phase is the closure ---------------------------------------------------------------------------------


def regression(optimizer=LBFGS):
    torch.manual_seed(2)
    models = {"net": nn.Linear(4, 2), "head": nn.Linear(2, 1)}
    return Joint(
        models=models,
        losses=lambda m, batch: batch(m),
        optimizers={
            "net": optimizer(models["net"].parameters(), max_iter=4),
            "head": SGD(models["head"].parameters(), 0.1),
        },
        phases=alternate("net", "head"),
        weighting=RunningMean(beta=0.5),
        trains={"fit": ["net", "head"]},
    )


def fit(m):
    return {"fit": (m.head(m.net(X)).squeeze() - X.sum(1)).square().mean()}


class At:
    """``fit``, but the n-th evaluation fails."""

    def __init__(self, n, how):
        self.n, self.how, self.calls = n, how, 0

    def __call__(self, m):
        self.calls += 1
        losses = fit(m)
        return {"fit": self.how(losses["fit"])} if self.calls == self.n else losses


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize(
    ("how", "kind"),
    [
        (raises(InjectedError()), InjectedError),
        (raises(KeyboardInterrupt()), KeyboardInterrupt),
        (Fails.apply, InjectedError),
        (lambda loss: loss * torch.nan, NonFiniteLossError),
        (lambda loss: loss.detach(), CogradError),
    ],
    ids=["evaluation", "interrupt", "backward", "finite check", "no graph"],
)
def test_the_first_evaluation_of_a_closure_fails(how, kind, steps, picture, same):
    joint, twin = regression(), regression()
    for _ in range(steps):
        joint.step(fit)
        twin.step(fit)
    give_gradients(joint)
    before = picture(joint)
    with pytest.raises(kind):
        joint.step(At(1, how))
    same(before, picture(joint))
    joint.step(fit)
    twin.step(fit)
    same(picture(twin), picture(joint))


@pytest.mark.parametrize("steps", [0, 1])
@pytest.mark.parametrize(
    "how",
    [raises(InjectedError("late")), Fails.apply, lambda loss: loss.detach()],
    ids=["evaluation", "backward", "no graph"],
)
def test_a_later_evaluation_of_a_closure_fails(how, steps):
    joint = regression()
    for _ in range(steps):
        joint.step(fit)
    give_gradients(joint)
    held = {p: p.grad for name in joint.models for p in joint.models[name].parameters()}
    with pytest.raises(PartialStepError) as caught:
        joint.step(At(2, how))
    assert (caught.value.failed, caught.value.stepped) == ("net", ())
    assert all(p.grad is g for p, g in held.items())
    assert all(p.requires_grad for p in held)
    assert joint.updates == {"net": steps, "head": steps}
    assert joint.steps == steps
    assert joint.state_dict()["phases"][0]["weighting"]["steps"] == steps


# -- what a success leaves -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phases", [None, alternate("disc", "gen")], ids=["at once", "in turns"])
def test_a_stale_gradient_never_leaks_into_an_update(phases, picture, same):
    joint, twin = build(phases), build(phases)
    for _ in range(2):
        give_gradients(joint)
        joint.step({})
        twin.step({})
        assert all(p.grad is None for name in joint.models for p in joint.models[name].parameters())
    same(picture(twin), picture(joint))


def test_the_gradient_of_a_model_that_was_not_updated_survives():
    joint = build(alternate("disc", "gen", every={"gen": 2}))
    give_gradients(joint)
    held = [p.grad for p in joint.models.gen.parameters()]
    gen = joint.models.gen[0].weight.clone()
    joint.step({})
    assert all(p.grad is g for p, g in zip(joint.models.gen.parameters(), held, strict=True))
    assert all((g == 3 + i).all() for i, g in enumerate(held))
    assert all(p.grad is None for p in joint.models.disc.parameters())
    assert joint.models.gen[0].weight.equal(gen)


def test_the_gradient_of_a_parameter_that_the_user_froze_survives():
    joint = build()
    frozen = joint.models.gen[0].bias
    frozen.requires_grad_(False)
    value = frozen.clone()
    frozen.grad = held = torch.ones_like(frozen)
    joint.step({})
    assert frozen.grad is held
    assert frozen.equal(value)
    assert not frozen.requires_grad


def test_one_optimizer_over_all_models_moves_only_those_of_the_phase():
    torch.manual_seed(0)
    a, b = nn.Linear(4, 1), nn.Linear(4, 1)
    joint = Joint(
        models={"a": a, "b": b},
        losses=lambda m, x: {"la": m.a(x).square().mean(), "lb": m.b(x).square().mean()},
        trains={"la": "a", "lb": "b"},
        optimizers=SGD([*a.parameters(), *b.parameters()], 0.1, momentum=0.9, weight_decay=0.1),
        phases=alternate("a", "b", every={"b": 3}),
    )
    for _ in range(3):
        joint.step(X)
    weight = b.weight.clone()
    momentum = joint.optimizers["optimizer"].state[b.weight]["momentum_buffer"].clone()
    b.weight.grad = torch.ones_like(b.weight)  # neither this, nor decay, nor momentum may move it
    for _ in range(2):
        joint.step(X)
    assert b.weight.equal(weight)
    assert joint.optimizers["optimizer"].state[b.weight]["momentum_buffer"].equal(momentum)
    assert (b.weight.grad == 1).all()


def test_a_step_that_skips_a_model_keeps_its_accumulated_gradient():
    torch.manual_seed(0)
    models = {"a": nn.Linear(4, 1), "b": nn.Linear(4, 1)}
    joint = Joint(
        models=models,
        losses=lambda m, here: {"la": m.a(X).mean(), "lb": m.b(X).mean() if here else None},
        trains={"la": "a", "lb": "b"},
        optimizers=SGD,
    )
    joint.step(True)
    models["b"].weight.grad = held = torch.ones(1, 4)
    report = joint.step(False)
    assert report.skipped == ("b",)
    assert joint.updates == {"a": 2, "b": 1}
    assert models["b"].weight.grad is held
