"""``Phase(defer=...)``: a gradient that waits for the next phase that updates its model."""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.optim import LBFGS, SGD, Adam

import cograd
from cograd import Joint, Phase
from cograd.errors import NonFiniteLossError, OptimizerError, PartialStepError, PhaseError, StateError
from cograd.weighting import FAMO, PCGrad

torch.manual_seed(0)
X = torch.randn(6, 4)
LATER = [Phase(("enc", "gen"), losses="first", defer="gen"), Phase("gen", losses="second")]
optimizer = partial(SGD, lr=0.1, momentum=0.9, weight_decay=0.1)


def nets(seed=1):
    torch.manual_seed(seed)
    return {"enc": nn.Linear(4, 3), "gen": nn.Linear(3, 2)}


def losses(m, x):
    return {
        "first": lambda: (m.gen(m.enc(x).tanh()) - 1).square().mean(),
        "second": lambda: (m.gen(x[:, :3]) + 1).square().mean(),
    }


def joint_of(models=None, phases=LATER, **options):
    return Joint(models=models or nets(), losses=losses, phases=phases, **{"optimizers": optimizer} | options)


def both(m, x):
    """The two losses, by hand."""
    models = cograd.Models(m)
    return [loss() for loss in losses(models, x).values()]


def test_bitwise_two_backward_calls_with_a_step_of_another_model_between(same):
    mine, theirs = nets(), nets()
    joint = joint_of(mine)
    opt = {name: optimizer(model.parameters()) for name, model in theirs.items()}
    for _ in range(4):
        reports = joint.step(X).phases
        assert [(r.models, r.deferred, r.stepped) for r in reports] == [
            (("enc",), ("gen",), ("enc",)),
            (("gen",), (), ("gen",)),
        ]
        opt["enc"].zero_grad()
        opt["gen"].zero_grad()
        both(theirs, X)[0].backward()
        opt["enc"].step()
        both(theirs, X)[1].backward()
        opt["gen"].step()
    for name, model in mine.items():
        same(theirs[name].state_dict(), model.state_dict())
        assert all(p.grad is None for p in model.parameters())
    assert joint.updates == {"enc": 4, "gen": 4}
    assert joint.step(X).deferred == ("gen",)


def test_clipping_and_norms_see_the_sum(same):
    mine, theirs = nets(), nets()
    joint = joint_of(mine, clip={"gen": 0.5}, grad_norms=True)
    report = joint.step(X)
    opt = {name: optimizer(model.parameters()) for name, model in theirs.items()}
    both(theirs, X)[0].backward()
    opt["enc"].step()
    both(theirs, X)[1].backward()
    norm = nn.utils.clip_grad_norm_(theirs["gen"].parameters(), 0.5)
    opt["gen"].step()
    assert norm > 0.5
    same(report.grad_norms["gen"], norm)
    for name, model in mine.items():
        same(theirs[name].state_dict(), model.state_dict())


def test_several_gradients_add_up_until_the_update():
    mine, theirs = nets(), nets()
    joint = joint_of(mine, [Phase("gen", losses="first", defer="gen", repeat=2), LATER[0], Phase("gen", every=2)])
    before = copy.deepcopy(mine["gen"].state_dict())
    joint.step(X)
    assert all(torch.equal(before[key], value) for key, value in mine["gen"].state_dict().items())
    joint.step(X)
    opt = {name: optimizer(model.parameters()) for name, model in theirs.items()}
    for _ in range(2):
        for _ in range(2):
            torch.autograd.backward(both(theirs, X)[0], inputs=list(theirs["gen"].parameters()))
        both(theirs, X)[0].backward()
        opt["enc"].step()
        opt["enc"].zero_grad()
    torch.autograd.backward(sum(both(theirs, X)), inputs=list(theirs["gen"].parameters()))
    opt["gen"].step()
    for name, model in mine.items():
        torch.testing.assert_close(dict(model.named_parameters()), dict(theirs[name].named_parameters()))
    assert joint.updates == {"enc": 2, "gen": 1}


def test_a_parameter_that_only_the_earlier_loss_reaches_is_updated_too():
    models = {"enc": nn.Linear(4, 3), "gen": nn.ModuleDict({"a": nn.Linear(3, 1), "b": nn.Linear(3, 1)})}
    joint = Joint(
        models=models,
        losses=lambda m, x: {"first": lambda: m.gen.a(m.enc(x)).mean(), "second": lambda: m.gen.b(m.enc(x)).mean()},
        optimizers=partial(SGD, lr=0.1),
        phases=LATER,
    )
    before = {key: p.detach().clone() for key, p in models["gen"].named_parameters()}
    joint.step(X)
    assert all(not torch.equal(before[key], p) for key, p in models["gen"].named_parameters())


def test_one_optimizer_over_both_does_not_move_what_is_deferred(same):
    """Momentum and weight decay would, if it saw a gradient of zeros."""
    models, expected = nets(), nets()
    joint = joint_of(models, optimizers=optimizer([p for m in models.values() for p in m.parameters()]))
    apart = joint_of(expected)
    for _ in range(3):
        joint.step(X)
        apart.step(X)
    same(apart.state_dict()["models"], joint.state_dict()["models"])


@pytest.mark.parametrize("rule", [PCGrad(), FAMO()], ids=lambda rule: type(rule).__name__)
def test_under_a_rule_the_weighted_gradient_is_left(rule):
    mine = nets()
    joint = joint_of(mine, [Phase(("enc", "gen"), defer="gen"), Phase("gen", losses="second")], weighting=rule)
    alone = joint_of(nets(), [Phase(("enc", "gen"))], weighting=rule, optimizers=partial(SGD, lr=1.0))
    before = copy.deepcopy(alone.models.gen.weight)
    joint.step(X)
    alone.step(X)
    gradient = before - alone.models.gen.weight
    rest = nets()
    rest["enc"].load_state_dict(mine["enc"].state_dict())
    both(rest, X)[1].backward()
    total = gradient + rest["gen"].weight.grad + 0.1 * before
    torch.testing.assert_close(mine["gen"].weight, before - 0.1 * total)


def test_float16_gradients_wait_without_their_scale(same):
    """The scale may change between the phase that leaves a gradient and the one that uses it."""
    steady, growing = (
        joint_of(nets(), precision=cograd.Fp16(scale=1.0, growth=growth), optimizers=partial(SGD, lr=0.1))
        for growth in (1000, 1)
    )
    for _ in range(3):
        steady.step(X)
        growing.step(X)
    for key in ("models", "deferred"):
        same(steady.state_dict()[key], growing.state_dict()[key])
    assert growing.state_dict()["precision"]["scale"] == 2.0**6


SERVED = [
    Phase("gen", losses="second", optimizers="a"),
    Phase(("gen", "head"), losses="third", optimizers=["b", "head"]),
]


@pytest.mark.parametrize("own", [None, "enc"], ids=["by all optimizers", "by one of another model"])
def test_float16_gradients_are_unscaled_once_whichever_optimizers_serve_the_phase(own):
    """Two hold the model whose gradient is left, or none of those of the phase."""

    def three(m, x):
        return {name: lambda loss=loss: loss().float() for name, loss in losses(m, x).items()} | {
            "third": lambda: m.head(m.gen(x[:, :3])).float().square().mean()
        }

    found = []
    for precision in (None, cograd.Fp16(scale=256.0)):
        models = nets() | {"head": nn.Linear(2, 1)}
        nn.init.ones_(models["head"].weight)
        optimizers = {
            "enc": SGD(models["enc"].parameters(), lr=0.1),
            "a": SGD(models["gen"].parameters(), lr=0.1),
            "b": SGD(models["gen"].parameters(), lr=0.2),
            "head": SGD(models["head"].parameters(), lr=0.2),
        }
        first = Phase(("enc", "gen"), losses="first", defer="gen", optimizers=own)
        joint = Joint(models=models, losses=three, optimizers=optimizers, phases=[first, *SERVED], precision=precision)
        joint.step(X)
        found.append(models["gen"].weight)
    torch.testing.assert_close(*found, rtol=2e-3, atol=2e-3)


def test_an_overflow_of_what_is_left_is_noticed():
    class Infinite(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, g):
            return g * float("inf")

    models = nets()
    joint = Joint(
        models=models,
        losses=lambda m, x: {"first": (m.enc(x).sum() + Infinite.apply(m.gen(x[:, :3]))).float().square().mean()},
        optimizers={name: SGD(model.parameters(), lr=0.1) for name, model in models.items()},
        phases=[Phase(("enc", "gen"), defer="gen", optimizers="enc"), Phase("gen", every=2, optimizers="gen")],
        precision=cograd.Fp16(skip="one", scale=256.0),
    )
    report = joint.step(X)
    assert report.overflowed == ("gen",)
    assert joint.updates == {"enc": 1, "gen": 0}
    assert joint.state_dict()["deferred"] == {"gen": {}}


def test_what_is_frozen_while_its_gradient_waits_does_not_move():
    joint = joint_of(phases=[Phase("gen", losses="second", every=2), LATER[0]])
    joint.step(X)
    weight, bias = joint.models.gen.weight, joint.models.gen.bias
    weight.requires_grad_(False)
    before = weight.clone(), bias.detach().clone()
    joint.step(X)
    assert torch.equal(weight, before[0])
    assert not torch.equal(bias, before[1])
    assert weight.grad is None


def test_a_step_may_end_with_a_gradient_that_waits_and_is_resumed_bit_for_bit(same):
    phases = [Phase("gen", losses="second", every=2), LATER[0]]
    a, b, c = (joint_of(nets(seed), phases) for seed in (1, 1, 5))
    for _ in range(5):
        a.step(X)
    for _ in range(3):
        b.step(X)
    state = copy.deepcopy(b.state_dict())
    assert sorted(state["deferred"]["gen"]) == ["bias", "weight"]
    c.load_state_dict(state)
    c.step(X), c.step(X)
    same(a.state_dict(), c.state_dict())
    with pytest.raises(StateError, match="leave the gradient of gen for its next update"):
        joint_of(phases=[phases[0], Phase(("enc", "gen"), losses="first")]).load_state_dict(state)


def test_a_copy_keeps_what_waits(same):
    phases = [Phase("gen", losses="second", every=2), LATER[0]]
    joint = joint_of(phases=phases)
    joint.step(X)
    twin = copy.deepcopy(joint)
    joint.step(X), twin.step(X)
    same(joint.state_dict(), twin.state_dict())


def test_what_fails_leaves_no_trace(picture, same):
    joint = joint_of(phases=[*LATER, Phase("gen", losses="first", defer="gen")])
    joint.step(X)
    before, waiting = picture(joint), copy.deepcopy(joint.state_dict()["deferred"])
    with pytest.raises(NonFiniteLossError):
        joint.step(X * float("nan"))
    same(before, picture(joint))
    same(waiting, joint.state_dict()["deferred"])


def test_a_gradient_is_still_waiting_where_the_update_failed(same):
    joint = joint_of(clip={"gen": 1.0})
    healthy = joint.models.gen.forward
    calls = []

    def broken(x):
        calls.append(x)
        return healthy(x) * (float("nan") if len(calls) == 2 else 1.0)

    joint.models.gen.forward = broken
    with pytest.raises(NonFiniteLossError):
        joint.step(X)
    waiting = joint.state_dict()["deferred"]["gen"]
    assert len(waiting) == 2
    assert joint.updates == {"enc": 1, "gen": 0}


def test_a_frozen_model_drops_what_was_left():
    joint = joint_of(phases=[Phase("gen", losses="second", every=2), LATER[0]])
    joint.step(X)
    joint.freeze("gen")
    joint.step(X)
    assert joint.state_dict()["deferred"] == {"gen": {}}


def test_the_users_own_gradients_stay(same):
    joint = joint_of(phases=[Phase("gen", losses="second", every=2), LATER[0]])
    mine = torch.ones(2, 3)
    joint.models.gen.weight.grad = mine
    joint.step(X)
    assert joint.models.gen.weight.grad is mine
    same(mine, torch.ones(2, 3))


def test_a_model_of_which_no_loss_is_there_waits_on():
    joint = Joint(
        models=nets(),
        losses=lambda m, x: losses(m, x) | ({"second": None} if len(x) < 6 else {}),
        phases=LATER,
        optimizers=optimizer,
    )
    joint.step(X[:3])
    assert joint.updates == {"enc": 1, "gen": 0}
    assert len(joint.state_dict()["deferred"]["gen"]) == 2
    joint.step(X)
    assert joint.updates == {"enc": 2, "gen": 1}
    assert joint.state_dict()["deferred"] == {"gen": {}}


def test_sparse_gradients():
    tables = {"table": nn.Embedding(5, 2, sparse=True), "other": nn.Linear(2, 1)}
    dense = copy.deepcopy(tables)
    dense["table"].sparse = False
    for models in (tables, dense):
        joint = Joint(
            models=models,
            losses=lambda m, i: {
                "first": lambda: m.other(m.table(i)).mean(),
                "second": lambda: m.table.weight.square().mean(),
            },
            optimizers=partial(SGD, lr=0.1),
            phases=[Phase(("other", "table"), losses="first", defer="table"), Phase("table", losses="second")],
        )
        joint.step(torch.tensor([1, 2, 2]))
    torch.testing.assert_close(tables["table"].weight, dense["table"].weight)


def test_plan_and_explain_show_what_is_left_and_where_it_is_used():
    joint = joint_of()
    joint.step(X)
    for text in (str(joint.plan()), str(cograd.explain(joint, X))):
        assert "phase 1: update enc, leave the gradient of gen for its next update, by first" in text
        assert "gen: with the gradient that phase 1 has left" in text
    assert "leave the gradient of gen" in repr(joint)
    assert str(Phase("gen", defer="gen")) == "leave the gradient of gen for its next update"


@pytest.mark.parametrize(
    ("phases", "options", "error", "words"),
    [
        (
            [LATER[0]],
            {},
            PhaseError,
            "leaves the gradient of 'gen' for another phase that updates it, which is not there",
        ),
        ([LATER[0], Phase("gen", stop=3)], {}, PhaseError, "which stops earlier, so that the gradient is never used"),
        ([LATER[0], Phase("gen", defer="gen")], {}, PhaseError, "which is not there"),
        (LATER, {"accumulate": {"gen": 2}}, PhaseError, "accumulate gathers the gradients of several batches"),
        (
            LATER,
            {
                "optimizers": lambda models: {
                    "enc": SGD(models["enc"].parameters()),
                    "gen": LBFGS(models["gen"].parameters()),
                }
            },
            OptimizerError,
            "optimizer 'gen' evaluates the losses of the phase .* itself",
        ),
    ],
)
def test_a_gradient_that_could_not_be_used_is_refused(phases, options, error, words):
    models = nets()
    options = {key: value(models) if callable(value) else value for key, value in options.items()}
    with pytest.raises(error, match=words):
        joint_of(models, phases, **options)


def test_a_phase_that_stops_too_may_leave_gradients_until_then():
    joint_of(phases=[Phase(("enc", "gen"), defer="gen", stop=2), Phase("gen", stop=3), Phase("enc")])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: Phase("gen", defer="gan"),
            r"Phase\('gen', defer='gan'\): defer names 'gan', which it does not train.*mean 'gen'",
        ),
        (lambda: Phase("gen", defer=3), "defer must be a name among its models, or several; found 3"),
    ],
)
def test_a_bad_name_is_refused(make, words):
    with pytest.raises(PhaseError, match=words):
        make()


def test_an_optimizer_that_fails_is_said_to_have_failed():
    class Fails(Adam):
        def step(self, closure=None):
            raise RuntimeError("no memory")

    models = nets()
    own = {"enc": SGD(models["enc"].parameters()), "gen": Fails(models["gen"].parameters())}
    with pytest.raises(PartialStepError, match="optimizer 'gen' failed"):
        joint_of(models, optimizers=own).step(X)
