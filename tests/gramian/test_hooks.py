"""Hooks of torch, anywhere in the graph: none is given None, and what they make of a gradient counts."""

import pytest
import torch
from torch import nn
from torch.autograd.graph import register_multi_grad_hook

import cograd
from cograd.gramian import At, Layerwise, Rows
from cograd.weighting import Stateful

ENGINES = {"automatic": None, "rows": Rows(), "layerwise": Layerwise()}
every_engine = pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)
X = torch.linspace(-1, 1, 20, dtype=torch.float64).reshape(5, 4).sin()


def halved(g):
    """What no hook of torch is given would raise here."""
    return g * 0.5


class Scene:
    """Two or three losses on a trunk, whose graph can be hooked at many places."""

    def __init__(self, few=True):
        torch.manual_seed(3)
        self.low, self.high = nn.Linear(4, 24), nn.Linear(24, 24)
        self.a, self.b, self.c = nn.Linear(24, 2), nn.Linear(24, 2), nn.Linear(24, 3)
        self.models = nn.ModuleDict({k: getattr(self, k) for k in ("low", "high", "a", "b", "c")}).double()
        self.few = few

    def losses(self, place=lambda name, t: t):
        h = place("deep", self.low(X).tanh())
        z = place("shared", self.high(h).tanh())
        out = place("in a head", self.a(z))
        found = {
            "a": out.square().mean(),
            "b": (self.b(place("view", z.view(-1, 24))) - 1).square().mean(),
            "c": (self.c(place("part", z[:, :24])).sin() + h[:, :3]).sum() if not self.few else None,
        }
        return {name: place("loss", loss) for name, loss in found.items() if loss is not None}

    @property
    def leaves(self):
        return list(self.models.parameters())


def tensor_hook(where, hook=halved):
    def place(name, t):
        if name == where:
            t.register_hook(hook)
        return t

    return place


def node_hook(where):
    """On the node, before it runs."""

    def place(name, t):
        if name == where:
            t.grad_fn.register_prehook(lambda grads: tuple(halved(g) for g in grads))
        return t

    return place


PLACES = ["deep", "shared", "view", "part", "in a head", "loss"]
KINDS = {"tensor": tensor_hook, "node": node_hook}


@every_engine
@pytest.mark.parametrize("few", [True, False], ids=["two", "three"])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("where", PLACES)
def test_a_hook_that_scales_is_in_the_gramian_and_in_the_gradients(where, kind, few, engine, rule, reference, agrees):
    ours, theirs = Scene(few), Scene(few)
    expected = reference(theirs.losses(kind(where)), theirs.leaves)
    report = cograd.backward(ours.losses(kind(where)), weighting=rule, gramian=engine)
    agrees(report, ours.leaves, expected, theirs.leaves)


@every_engine
@pytest.mark.parametrize("few", [True, False], ids=["two", "three"])
def test_hooks_on_every_tensor_at_once(few, engine, rule, reference, agrees):
    def everywhere(name, t):
        t.register_hook(halved)
        return t

    ours, theirs = Scene(few), Scene(few)
    for scene in (ours, theirs):
        scene.high.weight.register_hook(halved)
        scene.a.bias.register_hook(halved)
    expected = reference(theirs.losses(everywhere), theirs.leaves)
    report = cograd.backward(ours.losses(everywhere), weighting=rule, gramian=engine)
    agrees(report, ours.leaves, expected, theirs.leaves)


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("how", ["refresh", "at", "routes"])
def test_also_where_the_gradient_is_weighted_on_its_way(where, how, rule, reference):
    ours, theirs = Scene(), Scene()
    expected = reference(theirs.losses(tensor_hook(where)), theirs.leaves)
    kept = {}

    def place(name, t):
        kept[name] = t
        return tensor_hook(where)(name, t)

    if how == "refresh":
        balance = Stateful(rule, refresh=3)
        cograd.backward(ours.losses(place), weighting=balance)
        ours.models.zero_grad()
        report = cograd.backward(ours.losses(place), weighting=balance)
    elif how == "routes":
        report = cograd.backward(
            ours.losses(place), models=dict(ours.models.items()), trains={"a": ["low", "high"]}, weighting=rule
        )
    else:
        losses = ours.losses(place)
        rows = [torch.autograd.grad(loss, kept["shared"], retain_graph=True)[0].flatten() for loss in losses.values()]
        report = cograd.backward(losses, weighting=lambda g: g.new_tensor([0.3, 2.0]), gramian=At(kept["shared"]))
        both = torch.stack(rows) * (2 if where == "shared" else 1)  # At compares what arrives, before the hook
        torch.testing.assert_close(report.gramian.matrix, both @ both.T)
        expected = reference(theirs.losses(tensor_hook(where)), theirs.leaves, rule=lambda g: g.new_tensor([0.3, 2.0]))
    assert report.weights == pytest.approx(expected.weights)
    for p, q in zip(ours.leaves, theirs.leaves, strict=True):
        trained = q in expected.gradients and not (how == "routes" and any(p is own for own in ours.a.parameters()))
        assert (p.grad is not None) == trained
        if trained:
            torch.testing.assert_close(p.grad, expected.gradients[q], rtol=1e-10, atol=1e-12)


# -- what a hook sees ------------------------------------------------------------------------------------------------


def seen_by(where, hooks):
    def place(name, t):
        if name == where:
            t.register_hook(lambda g: hooks.append(g.clone()))
        return t

    return place


@pytest.mark.parametrize("where", PLACES)
def test_one_by_one_a_hook_sees_the_gradient_of_each_loss_once(where, rule):
    ours, theirs, seen, expected = Scene(), Scene(), [], []
    for loss in (losses := theirs.losses(seen_by(where, expected))).values():
        torch.autograd.grad(loss, theirs.leaves, retain_graph=True, allow_unused=True)
    assert losses
    cograd.backward(ours.losses(seen_by(where, seen)), weighting=rule, gramian=Rows())
    assert len(seen) == len(expected)
    for g, h in zip(seen, expected, strict=True):
        torch.testing.assert_close(g, h)


@pytest.mark.parametrize("where", ["deep", "shared"])
def test_with_weights_of_an_earlier_step_it_sees_their_weighted_sum_once(where, rule):
    ours, seen, balance = Scene(), [], Stateful(rule, refresh=3)
    cograd.backward(ours.losses(), weighting=balance)
    kept = {}

    def place(name, t):
        kept[name] = t
        return seen_by(where, seen)(name, t)

    losses = ours.losses(place)
    weights = balance.held(losses)
    rows = {k: torch.autograd.grad(v, kept[where], retain_graph=True, allow_unused=True)[0] for k, v in losses.items()}
    seen.clear()
    cograd.backward(losses, weighting=balance)
    (found,) = seen
    torch.testing.assert_close(found, sum(weights[k] * g for k, g in rows.items() if g is not None))


def test_a_hook_that_is_not_linear_changes_the_gradient_of_each_loss(rule, reference, agrees):
    """Exactly what differentiating each loss by itself gives, and not what it would make of their sum."""
    ours, theirs = Scene(), Scene()
    clamp = tensor_hook("shared", lambda g: g.clamp(-0.01, 0.01))
    expected = reference(theirs.losses(clamp), theirs.leaves)
    report = cograd.backward(ours.losses(clamp), weighting=rule, gramian=Rows())
    agrees(report, ours.leaves, expected, theirs.leaves)


@every_engine
@pytest.mark.parametrize("few", [True, False], ids=["two", "three"])
def test_hooks_of_modules_are_called_as_in_any_backward(few, engine, rule, reference, agrees):
    ours, theirs = Scene(few), Scene(few)
    for scene in (ours, theirs):
        for module in (scene.high, scene.a):
            module.register_full_backward_pre_hook(lambda m, out: tuple(halved(g) for g in out))
        scene.high.register_full_backward_hook(lambda m, into, out: tuple(halved(g) for g in into))
    expected = reference(theirs.losses(), theirs.leaves)
    report = cograd.backward(ours.losses(), weighting=rule, gramian=engine)
    agrees(report, ours.leaves, expected, theirs.leaves)


@every_engine
@pytest.mark.parametrize("mode", ["all", "any"])
def test_a_hook_of_several_tensors(mode, engine, rule):
    ours, calls, kept = Scene(), [], []
    losses = ours.losses(lambda name, t: kept.append(t) or t)

    def note(grads):
        calls.append(any(g is not None for g in grads) if mode == "all" else grads is not None)

    register_multi_grad_hook(kept[:3], note, mode=mode)
    cograd.backward(losses, weighting=rule, gramian=engine)
    assert calls
    assert all(calls)


# -- gradients that are retained -------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["deep", "shared", "view", "in a head"])
def test_retain_grad_holds_the_gradient_of_the_plain_sum_of_the_losses(where):
    def retained(scene, run):
        kept = []

        def place(name, t):
            if name == where:
                t.retain_grad()
                kept.append(t)
            return t

        run(scene.losses(place))
        return kept[0].grad

    expected = retained(Scene(), lambda losses: sum(losses.values()).backward())
    for engine in (None, Rows()):
        found = retained(
            Scene(), lambda losses, e=engine: cograd.backward(losses, weighting=lambda g: g.new_ones(2), gramian=e)
        )
        torch.testing.assert_close(found, expected)


# -- in a Joint ------------------------------------------------------------------------------------------------------

JOINTS = {
    "UPGrad": {"weighting": cograd.weighting.UPGrad()},
    "refresh": {"weighting": cograd.weighting.UPGrad(), "refresh": 2},
    "LRAnnealing": {"weighting": cograd.weighting.LRAnnealing("a")},
    "FromJacobian": {"weighting": cograd.weighting.FromJacobian(lambda jacobian: jacobian.sum(0))},
    "watch": {"watch": 1},
    "watch, rows": {"watch": 1, "gramian": Rows()},
    "routes": {"weighting": cograd.weighting.UPGrad(), "trains": {"a": ["high", "a"]}},
}


@pytest.mark.parametrize("options", JOINTS.values(), ids=JOINTS)
@pytest.mark.parametrize("few", [True, False], ids=["two", "three"])
@pytest.mark.parametrize("where", PLACES)
def test_a_joint_runs_with_a_hook_anywhere(where, few, options):
    scene = Scene(few)
    joint = cograd.Joint(
        models={k: v for k, v in scene.models.items() if k != "c" or not few},
        losses=lambda m, x: scene.losses(tensor_hook(where)),
        optimizers=torch.optim.SGD,
        **options,
    )
    for _ in range(2):
        joint.step(X)
    assert "a" in str(cograd.explain(joint, X))


def test_watching_changes_nothing_where_hooks_are():
    found = []
    for watch in (0, 1):
        scene = Scene()
        joint = cograd.Joint(
            models={k: v for k, v in scene.models.items() if k != "c"},
            losses=lambda m, x, scene=scene: scene.losses(tensor_hook("shared")),
            optimizers=torch.optim.SGD,
            watch=watch,
        )
        for _ in range(2):
            joint.step(X)
        found.append([p.detach().clone() for p in scene.leaves])
    assert all(p.equal(q) for p, q in zip(*found, strict=True))
