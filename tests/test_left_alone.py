"""What a losses function must leave alone is refused by name, in every kind of phase, and nothing has changed."""

import copy
import warnings
from functools import partial

import pytest
import torch
from torch import nn
from torch.optim import LBFGS, SGD, Adam

import cograd
from cograd import Joint, weighting
from cograd.errors import LossError, ModelError, PassError

X = torch.randn(8, 3, generator=torch.Generator().manual_seed(1))
MOMENTUM = partial(SGD, lr=0.1, momentum=0.9, weight_decay=0.1)


def networks():
    torch.manual_seed(0)
    return {"a": nn.Linear(3, 4), "b": nn.Linear(4, 1)}


def good(m, x):
    h = m["a"](x)
    return {"y": (m["b"](h) - 1).square().mean(), "z": m["b"](h).mean() + h.square().mean()}


PHASES = {
    "plain": {},
    "rule": {"weighting": weighting.UPGrad()},
    "routes": {"trains": {"y": ["a", "b"], "z": "b"}},
    "turns": {"phases": cograd.alternate("a", "b")},
    "accumulate": {"accumulate": 2},
    "bf16": {"precision": "bf16"},
    "fp16": {"precision": "fp16"},
    "closure": {"optimizers": lambda params: LBFGS(params), "phases": cograd.alternate("a", "b")},
    "look back": {"weighting": weighting.FAMO()},
}


def joint_of(losses, **options):
    options.setdefault("optimizers", MOMENTUM)
    return Joint(models=networks(), losses=losses, **options)


def spoilt(act):
    """Losses that do something they must not, once asked to."""

    def losses(m, batch):
        x, bad = batch
        found = good(m, x)
        if bad:
            act(m, found)
        return found

    return losses


def backward(m, losses):
    losses["z"].backward(retain_graph=True)


def by_hand(m, losses):
    m["b"].bias.grad = torch.ones_like(m["b"].bias)


def own_step(m, losses):
    SGD(m["b"].parameters(), lr=0.1).step()


def switch_off(m, losses):
    m["a"].requires_grad_(False)


OFFENCES = {
    "backward": (backward, LossError, r"filled \.grad of (a\.weight|b\.weight) \(and \d more\)"),
    "grad": (by_hand, LossError, r"filled \.grad of b\.bias in the phase"),
    "step": (own_step, LossError, r"steps the optimizer of these models \(SGD\)"),
    "flags": (switch_off, ModelError, r"switches (off|on) requires_grad of a\.weight"),
}


@pytest.mark.parametrize("kind", PHASES)
@pytest.mark.parametrize("offence", OFFENCES)
def test_it_is_refused_by_name(kind, offence, picture, same):
    act, error, message = OFFENCES[offence]
    joint = joint_of(spoilt(act), **PHASES[kind])
    joint.step((X, False))
    before = picture(joint)
    with pytest.raises(error, match=message):
        joint.step((X, True))
    after = picture(joint)
    first = {"turns": "a", "closure": "a"}.get(kind)
    if first is None or offence != "flags":
        same(before, after)
    same(before["requires_grad"], after["requires_grad"])
    joint.step((X, False))


@pytest.mark.parametrize("offence", ["step", "flags", "grad", "backward"])
def test_at_the_first_step(offence, picture, same):
    act, error, message = OFFENCES[offence]
    joint = joint_of(spoilt(act))
    before = picture(joint)
    with pytest.raises(error, match=message):
        joint.step((X, True))
    same(before, picture(joint))


def test_an_optimizer_of_the_joint_is_named():
    models = networks()
    optimizer = Adam([p for m in models.values() for p in m.parameters()])

    def losses(m, x):
        found = good(m, x)
        optimizer.step()
        return found

    with pytest.raises(LossError, match=r"steps the optimizer 'both' \(Adam\) in the phase 'update a, b'"):
        Joint(models=models, losses=losses, optimizers={"both": optimizer}).step(X)


def inner_problem(m, x):
    """A gradient inside of a loss, an optimizer of other parameters, and a clearing that changes nothing."""
    z = torch.zeros(8, 4, requires_grad=True)
    inner = SGD([z], lr=0.1)
    (z - m["a"](x).detach()).square().sum().backward()
    inner.step()
    (slope,) = torch.autograd.grad(m["b"](m["a"](x)).sum(), m["a"].weight, create_graph=True)
    m["a"].zero_grad()
    return {"y": (m["b"](m["a"](x) + z.detach()) - 1).square().mean(), "slope": slope.square().mean()}


@pytest.mark.parametrize("kind", ["plain", "rule", "accumulate"])
def test_what_leaves_no_trace_is_allowed(kind):
    joint = joint_of(inner_problem, **PHASES[kind])
    for _ in range(3):
        joint.step(X)


def test_what_the_user_keeps_in_grad_is_no_offence():
    joint, twin = joint_of(good), joint_of(good)
    joint.models["a"].weight.grad = torch.ones(4, 3)
    joint.step(X)
    twin.step(X)
    assert torch.equal(joint.models["a"].weight, twin.models["a"].weight)


# -- a loss that differentiates at a model which its phase freezes ---------------------------------------------------


class Games(nn.Module):
    """With what a second evaluation would move or draw twice."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(inputs, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.3))
        self.last = nn.Linear(6, outputs)

    def forward(self, x):
        return self.last(self.net(x))


def consensus(m, x):
    """Both players see the length of both gradients (consensus optimization of games)."""
    score = m["disc"](m["gen"](x)).square().mean()
    players = [*m["gen"].parameters(), *m["disc"].parameters()]
    gradients = torch.autograd.grad(score, players, create_graph=True)
    length = sum(g.square().sum() for g in gradients)
    return {"gen": score + 0.1 * length, "disc": -score + 0.1 * length}


def players():
    torch.manual_seed(0)
    return {"gen": Games(3, 4), "disc": Games(4, 1)}


def in_turns_by_hand(m, steps):
    optimizers = {name: MOMENTUM(model.parameters()) for name, model in m.items()}
    for _ in range(steps):
        for name in m:
            parameters = list(m[name].parameters())
            found = torch.autograd.grad(consensus(m, X)[name], parameters, allow_unused=True)
            for p, g in zip(parameters, found, strict=True):
                p.grad = g
            optimizers[name].step()


TURNS = {"trains": {"gen": "gen", "disc": "disc"}, "phases": cograd.alternate("gen", "disc"), "optimizers": MOMENTUM}


def state(models):
    return {f"{name}.{key}": t for name, m in models.items() for key, t in m.state_dict().items()}


def test_consensus_in_turns_is_that_of_the_loop_by_hand(same):
    hand, ours = players(), players()
    torch.manual_seed(5)
    in_turns_by_hand(hand, 3)
    after = torch.get_rng_state()
    torch.manual_seed(5)
    joint = Joint(models=ours, losses=consensus, **TURNS)
    for _ in range(3):
        joint.step(X)
    assert torch.equal(torch.get_rng_state(), after)
    same(state(ours), state(hand))
    assert all(p.requires_grad for m in ours.values() for p in m.parameters())


def test_consensus_in_turns_continues_where_it_was_saved(same):
    first = Joint(models=players(), losses=consensus, **TURNS)
    torch.manual_seed(5)
    first.step(X)
    saved, drawn = copy.deepcopy(first.state_dict()), torch.get_rng_state()
    first.step(X)
    second = Joint(models=players(), losses=consensus, **TURNS)
    second.load_state_dict(saved)
    torch.set_rng_state(drawn)
    second.step(X)
    same(second.state_dict()["models"], first.state_dict()["models"])


@pytest.mark.parametrize(
    "options", [{"weighting": weighting.UPGrad()}, {"precision": "bf16"}, {"accumulate": 2}], ids=str
)
def test_a_frozen_player_does_not_move(options):
    models = players()
    turns = TURNS | {"phases": cograd.alternate("gen", "disc", every={"disc": 9})}
    joint = Joint(models=models, losses=consensus, **turns | options)
    before = [p.detach().clone() for p in models["disc"].parameters()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # nothing is shared within one turn
        for _ in range(3):
            joint.step(X)
    assert all(torch.equal(a, b) for a, b in zip(before, models["disc"].parameters(), strict=True))
    assert all(p.grad is None for p in models["disc"].parameters())


def test_plan_and_explain_see_such_losses_too():
    joint = Joint(models=players(), losses=consensus, **TURNS)
    assert "gen -> gen" in str(joint.plan(X))
    assert "gen" in str(cograd.explain(joint, X))
    joint.step(X)
    assert "gen -> gen" in str(joint.plan(X))


LONG = {"phases": cograd.alternate("gen", "disc", every={"disc": 9})}


def test_what_is_drawn_after_the_gradient_is_drawn_once():
    def losses(m, x):
        found = consensus(m, x)
        return found | {"gen": found["gen"] + torch.rand(())}

    drawn = []
    for steps in (1, 2):
        joint = Joint(models=players(), losses=losses, **TURNS | LONG)
        for _ in range(steps):
            torch.manual_seed(5)
            joint.step(X)
        drawn.append(torch.get_rng_state())
    assert torch.equal(*drawn)


def test_a_second_look_sees_such_losses_too():
    joint = Joint(models=players(), losses=consensus, **TURNS | {"weighting": weighting.FAMO()})
    joint.step(X)
    assert joint.updates == {"gen": 1, "disc": 1}
    assert all(p.requires_grad for name in joint.models for p in joint.models[name].parameters())


def test_a_loss_that_begins_to_do_so_later_is_told():
    joint = Joint(
        models=players(),
        losses=lambda m, late: consensus(m, X) if late else {"gen": m["disc"](m["gen"](X)).mean(), "disc": None},
        **TURNS | LONG,
    )
    joint.step(False)
    with pytest.warns(UserWarning, match="begins to differentiate at a model that the phase 'update gen' freezes"):
        joint.step(True)
    joint.step(True)


def test_an_error_of_the_losses_function_itself_is_raised_as_it_is():
    def losses(m, x):
        m["a"](x).detach().sum().backward()

    with pytest.raises(RuntimeError, match="does not require grad"):
        joint_of(losses, phases=cograd.alternate("a", "b")).step(X)


# -- graphs of earlier steps -------------------------------------------------------------------------------------------


def recurrent(state):
    def losses(m, x):
        y, hidden = m["rnn"](x, state[0])
        state[0] = hidden  # carried with its graph
        return {"y": m["head"](y).square().mean(), "small": y.square().mean()}

    return losses


@pytest.mark.parametrize(
    "options",
    [{}, {"weighting": weighting.UPGrad()}, {"trains": {"small": "rnn", "y": "head"}}, {"accumulate": 3}, {"watch": 1}],
    ids=str,
)
def test_a_state_that_is_carried_with_its_graph_is_named(options, picture, same):
    torch.manual_seed(0)
    models = {"rnn": nn.GRU(3, 4, batch_first=True), "head": nn.Linear(4, 1)}
    joint = Joint(models=models, losses=recurrent([None]), optimizers=MOMENTUM, **options)
    joint.step(torch.randn(2, 5, 3))
    before = picture(joint)
    with pytest.raises(PassError) as caught:
        joint.step(torch.randn(2, 5, 3))
    same(before, picture(joint))
    message = str(caught.value)
    assert "goes back into that of the step before" in message
    assert "state = state.detach()" in message
    assert "test_left_alone.py:" in message
    assert 'y, hidden = m["rnn"](x, state[0])' in message
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_a_graph_that_was_made_before_the_training():
    models = networks()
    doubled = models["a"].weight * 2

    def losses(m, x):
        return {"y": m["b"](x @ doubled.T).square().mean()}

    joint = Joint(models=models, losses=losses, optimizers=MOMENTUM)
    joint.step(X)
    with pytest.raises(PassError, match=r"of an evaluation long ago.*x @ doubled\.T"):
        joint.step(X)


def test_a_graph_of_an_earlier_phase():
    kept = {}

    def losses(m, x):
        if "h" not in kept:
            kept["h"] = m["a"](x)
        return {"y": m["b"](kept["h"]).square().mean()}

    joint = joint_of(losses, phases=cograd.Phase(["a", "b"], repeat=2))
    with pytest.raises(PassError, match="of an earlier phase of this step"):
        joint.step(X)


def test_another_fault_of_the_graph_keeps_the_words_of_torch():
    def losses(m, x):
        h = m["a"](x).sigmoid()
        y = m["b"](h).mean()
        h.mul_(2)  # sigmoid has saved its result
        return {"y": y}

    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        joint_of(losses).step(X)


# -- losses that stay away ---------------------------------------------------------------------------------------------


def some(m, here):
    """The losses under the names that a batch gives them."""
    found = good(m, X)
    return {alias: found.get(name) for name, alias in here.items()}


BOTH = {"y": "y", "z": "z"}


def test_a_loss_that_is_missing_later_is_told_once():
    joint = joint_of(some)
    joint.step(BOTH)
    said = r"In step 2 the losses function did not return 'z'.*returned 'zz', which is new"
    with pytest.warns(UserWarning, match=said) as told:
        joint.step({"y": "y", "z": "zz"})
    assert told[0].filename == __file__
    joint.step({"y": "y", "z": "zz"})
    joint.step({"y": "y", "x": "zz"})  # None says that it is meant


@pytest.mark.parametrize(
    "options",
    [{"trains": {"z": "b"}}, {"weights": {"z": 0.5}}, {"weights": {"z": 0.0}}, {"phases": cograd.alternate("a", "b")}],
    ids=str,
)
def test_however_it_was_declared(options):
    joint = joint_of(some, **options)
    joint.step(BOTH)
    with pytest.warns(UserWarning, match="did not return 'z'"):
        joint.step({"y": "y"})


def test_missing_may_be_an_error(picture, same):
    joint = joint_of(some, missing="raise")
    joint.step(BOTH)
    before = picture(joint)
    with pytest.raises(LossError, match=r"did not return 'z', which it returned before.*as None.*missing='allow'"):
        joint.step({"y": "y"})
    same(before, picture(joint))


def test_missing_may_be_allowed():
    joint = joint_of(some, missing="allow")
    joint.step(BOTH)
    joint.step({"y": "y"})


def test_a_loaded_state_remembers_the_names():
    first, second = joint_of(some), joint_of(some)
    first.step(BOTH)
    second.load_state_dict(first.state_dict())
    with pytest.warns(UserWarning, match="did not return 'z'"):
        second.step({"y": "y", "z": "zz"})


# -- what has no gradient is not shown to an optimizer -----------------------------------------------------------------


class ZeroFilling(torch.optim.Optimizer):
    """Takes a missing gradient for zero, then decays, as some public optimizers do."""

    def __init__(self, params, lr=0.1, decay=0.1):
        super().__init__(params, {"lr": lr, "decay": decay})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            _ = group["params"][-1]  # fails on a group without parameters, as some do
            for p in group["params"]:
                if p.grad is None:
                    p.grad = torch.zeros_like(p)
                p.mul_(1 - group["lr"] * group["decay"]).add_(p.grad, alpha=-group["lr"])


class Around:
    """An optimizer around another one, whose groups it shares."""

    def __init__(self, inner):
        self.inner, self.param_groups, self.state = inner, inner.param_groups, inner.state

    def step(self):
        self.inner.step()

    def zero_grad(self):
        self.inner.zero_grad()

    def state_dict(self):
        return self.inner.state_dict()

    def load_state_dict(self, state):
        self.inner.load_state_dict(state)


@pytest.mark.parametrize("around", [False, True])
@pytest.mark.parametrize("grouped", [False, True])
def test_a_frozen_model_does_not_move_whatever_the_optimizer_makes_of_none(around, grouped):
    models = networks()
    groups = [{"params": list(m.parameters())} for m in models.values()]
    optimizer = ZeroFilling(groups if grouped else [p for group in groups for p in group["params"]])
    params = [list(group["params"]) for group in optimizer.param_groups]
    joint = Joint(
        models=models,
        losses=good,
        optimizers={"both": Around(optimizer) if around else optimizer},
        phases=[cograd.Phase("b"), cograd.Phase("a", every=2)],
    )
    before = models["a"].weight.detach().clone()
    joint.step(X)
    assert torch.equal(models["a"].weight, before)
    joint.step(X)
    assert not torch.equal(models["a"].weight, before)
    assert [group["params"] == own for group, own in zip(optimizer.param_groups, params, strict=True)]


def test_groups_are_whole_again_after_an_optimizer_that_fails():
    class Failing(ZeroFilling):
        def step(self, closure=None):
            raise ValueError("no")

    models = networks()
    optimizer = Failing([{"params": list(m.parameters())} for m in models.values()])
    joint = Joint(models=models, losses=good, optimizers=optimizer, phases=cograd.alternate("b", "a"))
    with pytest.raises(cograd.errors.PartialStepError):
        joint.step(X)
    assert [len(group["params"]) for group in optimizer.param_groups] == [2, 2]


@pytest.mark.parametrize("phases", [None, cograd.alternate("a", "b")], ids=["at once", "in turns"])
def test_a_loss_of_a_model_that_its_function_freezes_is_not_looked_for_behind_a_cut(phases):
    def freezes(m, x):
        m["a"].requires_grad_(False)
        return {"y": m["a"](x).square().mean(), "z": m["b"](torch.ones(2, 4)).square().mean()}

    joint = Joint(models=networks(), losses=freezes, trains={"y": "a", "z": "b"}, optimizers=MOMENTUM, phases=phases)
    with pytest.raises(ModelError, match=r"switches off requires_grad of a.weight \(and 1 more\)") as caught:
        joint.step(X)
    assert "detach" not in str(caught.value)
    assert all(p.requires_grad for p in joint.models["a"].parameters())
