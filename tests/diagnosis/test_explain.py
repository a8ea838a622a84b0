"""explain: exact numbers, every cut with its line, and nothing changed."""

import json
import math
import random
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam

import cograd
from cograd import Joint, alternate, weighting
from cograd.errors import LossError, ModelError, PassError, RouteError
from cograd.recipes import build
from cograd.recipes import names as recipe_names

X = torch.linspace(-1, 1, 24).reshape(8, 3)


def networks():
    torch.manual_seed(0)
    return {
        "enc": nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Dropout(0.2)),
        "a": nn.Linear(4, 1),
        "b": nn.Linear(4, 2),
    }


def two(m, x):
    h = m.enc(x)
    return {"a": m.a(h).square().mean(), "b": (m.b(h) - 1).abs().mean(), "none": None}


def by_hand(losses, parameters):
    """Flat gradients, as a loop without cograd computes them."""
    rows = {}
    for name, loss in losses.items():
        grads = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        rows[name] = torch.cat(
            [torch.zeros(p.numel()) if g is None else g.flatten() for p, g in zip(parameters, grads, strict=True)]
        )
    return rows


def test_the_numbers_are_those_of_autograd():
    models = networks()
    models["enc"].eval()
    found = cograd.explain(two, X, models=models)
    losses = two(cograd.Models(models), X)
    del losses["none"]
    assert found.losses == ("a", "b")
    assert found.models == ("enc", "a", "b")
    assert found.reached == {"a": {"enc": 4, "a": 2, "b": 0}, "b": {"enc": 4, "a": 0, "b": 2}}
    for model in models:
        rows = by_hand(losses, list(models[model].parameters()))
        for name in losses:
            assert found.norms[name][model] == pytest.approx(rows[name].norm().item(), rel=1e-6)
    rows = by_hand(losses, list(models["enc"].parameters()))
    cosine = torch.cosine_similarity(rows["a"], rows["b"], dim=0).item()
    assert found.cosines["enc"][("a", "b")] == pytest.approx(cosine, abs=1e-6)
    assert found.cosines["a"] == {}
    total = rows["a"].norm() + rows["b"].norm()
    assert found.shares["a"] == pytest.approx({"enc": (rows["a"].norm() / total).item(), "a": 1.0})


def test_shares_count_weights_and_the_rule():
    def losses(m, x):
        return {"a": m.net(x).sum(), "b": 3 * m.net(x).sum()}

    def shares(**options):
        net = nn.Linear(3, 1)
        joint = Joint(models={"net": net}, losses=losses, optimizers=SGD, **options)
        found = cograd.explain(joint, X.abs())
        return found.shares["a"]["net"], found.shares["b"]["net"]

    assert shares() == pytest.approx((0.25, 0.75))
    assert shares(weights={"a": 3.0}) == pytest.approx((0.5, 0.5))
    assert shares(weighting=weighting.Fixed({"b": 0.5})) == pytest.approx((0.4, 0.6))
    assert shares(weighting=weighting.IMTLG()) == pytest.approx((0.5, 0.5), abs=1e-3)


@pytest.mark.parametrize(
    "rule",
    [None, weighting.RunningMean(), weighting.FAMO(), weighting.PCGrad(), weighting.Random(), weighting.GradNorm()],
    ids=lambda rule: type(rule).__name__,
)
@pytest.mark.parametrize("steps", [0, 2])
def test_nothing_changes(rule, steps, picture, same):
    def losses(m, x):
        torch.rand(2), random.random(), np.random.rand()
        m.a.eval()
        return two(m, x)

    torch.manual_seed(1)
    phases = alternate(("enc", "a"), "b") if rule is None else None
    joint = Joint(models=networks(), losses=losses, optimizers=Adam, weighting=rule, phases=phases)
    for _ in range(steps):
        joint.step(X)
    joint.models.a.train()
    for p in joint.models.enc.parameters():
        p.grad = torch.ones_like(p)
    joint.models.enc[0].bias.requires_grad_(False)
    before, states = picture(joint), (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist())
    cograd.explain(joint, X)
    same(picture(joint), before)
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1:] == (random.getstate(), np.random.get_state()[1].tolist())


def test_what_a_losses_function_does_to_the_models_is_undone():
    net = nn.Linear(3, 1)
    before = {key: value.clone() for key, value in net.state_dict().items()}

    def losses(m, x):
        with torch.no_grad():
            m.net.weight.mul_(2)
        m.net(x).sum().backward()
        m.net.bias.requires_grad_(False)
        return {"a": m.net(x).sum()}

    assert cograd.explain(losses, X, models={"net": net}).reached == {"a": {"net": 1}}
    assert all(torch.equal(net.state_dict()[key], value) for key, value in before.items())
    assert net.weight.grad is None
    assert net.bias.requires_grad


def test_after_an_error_nothing_has_changed_either():
    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    net[0].weight.grad = grad = torch.ones(2, 3)
    before, state = net[1].running_mean.clone(), torch.get_rng_state()

    def losses(m, x):
        torch.rand(1)
        return {"a": m.net(x).sum(), "b": lambda: 1 / 0}

    with pytest.raises(ZeroDivisionError):
        cograd.explain(losses, X, models={"net": net})
    assert net[0].weight.grad is grad
    assert torch.equal(net[1].running_mean, before)
    assert torch.equal(torch.get_rng_state(), state)


def test_gradients_may_be_off_outside():
    net = nn.Linear(3, 1)
    for off in (torch.no_grad(), torch.inference_mode()):
        with off:
            assert (
                cograd.explain(lambda m, x: {"a": m.net(X).sum()}, None, models={"net": net}).reached["a"]["net"] == 2
            )
            assert not torch.is_grad_enabled()


def test_phases_freeze_and_say_so():
    joint = Joint(
        models=networks(),
        losses=two,
        trains={"a": ["enc", "a"], "b": "b"},
        optimizers=SGD,
        phases=alternate(("enc", "a"), "b"),
    )
    found = cograd.explain(joint, X)
    first, second = found.parts
    assert (first.title, first.losses, first.frozen) == ("phase 1: update enc, a (b frozen)", ("a",), ("b",))
    assert (second.title, second.losses, second.models) == ("phase 2: update b (enc, a frozen)", ("b",), ("b",))
    assert found.reached == {"a": {"enc": 4, "a": 2}, "b": {"b": 2}}


def test_a_model_that_a_loss_reaches_without_training_it():
    joint = Joint(models=networks(), losses=two, trains={"b": "b"}, optimizers=SGD)
    found = cograd.explain(joint, X)
    assert found.reached["b"]["enc"] == 4
    assert "enc" not in found.shares["b"]
    assert found.shares["a"]["enc"] == 1.0
    assert "not trained" in str(found)


def test_a_model_reached_in_part():
    def losses(m, x):
        h = m.net[0](x)
        return {"a": m.net[1](h.detach()).sum()}

    found = cograd.explain(losses, X, models={"net": nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))})
    (cut,) = found.cuts
    assert found.reached == {"a": {"net": 2}}
    assert (cut.how, cut.parameters, cut.model) == ("detach()", 2, "net")
    assert "a depends on 4 parameters of net, and reaches 2" in str(found)


def test_a_function_that_gives_no_gradient_reaches_nothing():
    class Stop(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, g):
            return None

    found = cograd.explain(lambda m, x: {"a": Stop.apply(m.net(x)).sum()}, X, models={"net": nn.Linear(3, 1)})
    assert found.reached == {"a": {"net": 0}}
    assert "none: a trains no parameter of net, and no line cuts it" in str(found)


def test_a_loss_of_weight_zero_is_left_out():
    joint = Joint(models=networks(), losses=two, optimizers=SGD, weights={"b": 0.0})
    found = cograd.explain(joint, X)
    assert found.losses == ("a",)
    assert "loss b has weight 0 and is left out" in str(found)


def test_a_compiled_model_is_looked_into():
    net = torch.compile(nn.Sequential(nn.Linear(3, 2), nn.Tanh()), backend="eager")
    expected = net(X).sum()
    found = cograd.explain(lambda m, x: {"a": m.net(x).sum(), "b": m.net(x).data.sum()}, X, models={"net": net})
    assert found.reached == {"a": {"net": 2}, "b": {"net": 0}}
    assert [cut.how for cut in found.cuts] == [".data"]
    assert torch.equal(net(X).sum(), expected)


def test_sparse_and_complex_gradients():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(5, 2, sparse=True)
            self.phase = nn.Parameter(torch.ones(2, dtype=torch.complex64))

    def losses(m, x):
        return {"a": 3 * m.net.table(torch.tensor([1, 1])).sum(), "b": (m.net.phase * (3 + 4j)).real.sum()}

    found = cograd.explain(losses, None, models={"net": Both()})
    assert found.norms["a"]["net"] == pytest.approx(math.sqrt(2 * 6**2))
    assert found.norms["b"]["net"] == pytest.approx(5 * math.sqrt(2))


def test_a_gradient_of_zero_has_no_angle():
    found = cograd.explain(
        lambda m, x: {"a": 0 * m.net(x).sum(), "b": m.net(x).sum()}, X, models={"net": nn.Linear(3, 1)}
    )
    assert found.norms["a"]["net"] == 0
    assert math.isnan(found.cosines["net"][("a", "b")])
    assert found.shares == {"a": {"net": 0.0}, "b": {"net": 1.0}}


def test_declared_and_never_used():
    found = cograd.explain(
        lambda m, x: {"a": m.a(torch.ones(2, 4)).sum()}, X, models=networks(), trains={"a": ["a", "enc"]}
    )
    assert found.broken == (("a", "enc"),)
    assert found.cuts == ()
    assert "broken: a trains no parameter of enc, it is computed without enc" in str(found)


def test_what_a_joint_would_refuse_is_explained():
    def losses(m, x):
        h = m.enc(x).detach()
        return {"a": m.a(h).mean(), "b": m.b(h).mean().detach()}

    joint = Joint(models=networks(), losses=losses, trains={"a": ["enc", "a"], "b": "b"}, optimizers=SGD)
    found = cograd.explain(joint, X)
    assert found.broken == (("a", "enc"), ("b", "b"))
    assert [(cut.loss, cut.model, cut.how) for cut in found.cuts] == [
        ("a", "enc", "detach()"),
        ("b", "enc", "detach()"),
        ("b", "enc", "detach()"),
        ("b", "b", "detach()"),
    ]
    lines = [cut.line for cut in found.cuts]
    assert lines == [lines[0], lines[0] + 1, lines[0], lines[0] + 1]  # the nearest to the loss first


def test_a_reentrant_checkpoint_hides_parameters():
    from torch.utils.checkpoint import checkpoint

    def losses(m, x):
        return {"a": checkpoint(m.net, x.clone().requires_grad_(), use_reentrant=True).sum()}

    with pytest.raises(PassError, match="use_reentrant=False"):
        cograd.explain(losses, X, models={"net": nn.Linear(3, 1)})


def test_a_checkpoint_moves_no_buffer():
    from torch.utils.checkpoint import checkpoint

    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Dropout())
    found = cograd.explain(lambda m, x: {"a": checkpoint(m.net, x, use_reentrant=False).sum()}, X, models={"net": net})
    assert found.reached == {"a": {"net": 4}}
    assert not net[1].running_mean.any()


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe(name, picture, same):
    recipe = build(name)
    batch = next(iter(recipe.batches))
    before = picture(recipe.joint)
    found = cograd.explain(recipe.joint, batch)
    same(picture(recipe.joint), before)
    assert not found.broken
    assert len(found.parts) == len(recipe.joint.phases)
    assert all(len(line) < 100 for line in str(found).splitlines())
    for model in recipe.joint.models:
        trainable = [p for p in recipe.joint.models[model].parameters() if p.requires_grad]
        assert max([row.get(model, 0) for row in found.reached.values()], default=0) == len(trainable)
        shares = [row[model] for row in found.shares.values() if model in row]
        assert not trainable or len(recipe.joint.phases) > 1 or sum(shares) == pytest.approx(1)


def test_for_programs():
    found = cograd.explain(lambda m, x: two(m, x) | {"c": m.a(m.enc(x).data).sum()}, X, models=networks())
    again = json.loads(json.dumps(found.to_dict()))
    assert again["losses"] == ["a", "b", "c"]
    cell = next(c for c in again["parts"][0]["cells"] if (c["loss"], c["model"]) == ("a", "enc"))
    assert cell["norm"] == found.norms["a"]["enc"]
    assert again["parts"][0]["cuts"][0]["how"] == ".data"


def test_pictures():
    def losses(m, x):
        return {'"<a>"': m.a(m.enc(x)).sum(), "b": m.b(m.enc(x).detach()).sum()}

    found = cograd.explain(losses, X, models=networks(), trains={"b": ["enc", "b"]})
    svg = ElementTree.fromstring(found.svg())
    texts = [node.text for node in svg.iter("{http://www.w3.org/2000/svg}text")]
    assert {'"<a>"', "b", "enc", "a"} <= set(texts)
    assert any("detach()" in text for text in texts)
    assert len(list(svg.iter("{http://www.w3.org/2000/svg}line"))) == 4
    dot = found.dot()
    assert dot.count("->") == 4
    assert dot.count("{") == dot.count("}") == 2
    assert r"\"<a>\"" in dot


def test_the_door_refuses():
    with pytest.raises(ModelError, match="with the models that it is given"):
        cograd.explain(two, X)
    with pytest.raises(ModelError, match="leave out models="):
        cograd.explain(Joint(models=networks(), losses=two, optimizers=SGD), X, models=networks())
    with pytest.raises(LossError, match="must be a function"):
        cograd.explain({"a": X}, X, models=networks())
    with pytest.raises(RouteError, match="names loss 'c'"):
        cograd.explain(two, X, models=networks(), trains={"c": "a"})
    with pytest.raises(LossError, match="must be one number"):
        cograd.explain(lambda m, x: {"a": m.enc(x)}, X, models=networks())


SNAPSHOT = """
one evaluation (old frozen)
  loss     model  parameters  gradient        share  cosine
  fit      enc        2 of 2       4.9          29%  penalty +1.00
           dec        2 of 2      4.58         100%  penalty +1.00, adv +1.00
  penalty  enc        2 of 2      12.2          71%  fit +1.00
           dec        2 of 2      11.5  not trained  fit +1.00, adv +1.00
  adv      enc        0 of 2                 broken
           dec        2 of 2      4.58  not trained  fit +1.00, penalty +1.00
  broken: adv trains no parameter of enc, cut at
    {place}  detach()  h = m.enc(x).detach()

  fit     -+----> enc   29%
           +====> dec  100%
  penalty -+====> enc   71%
           +....> dec  not trained
  adv     -+--x   enc  detach() at {place}
           +....> dec  not trained
  (====> most of the gradient, ----> trains, ....> reaches without training, --x broken)
"""


def test_what_is_printed():
    enc, dec, old = nn.Linear(1, 1), nn.Linear(1, 1), nn.Linear(1, 1)
    for net in (enc, dec, old):
        nn.init.constant_(net.weight, 2.0)
        nn.init.constant_(net.bias, 0.0)
    old.requires_grad_(False)

    def losses(m, x):
        y = m.dec(m.enc(x)).mean()
        h = m.enc(x).detach()
        return {"fit": y + 0 * m.old(x).sum(), "penalty": 2.5 * y, "adv": m.dec(h).mean()}

    found = cograd.explain(
        losses,
        torch.full((2, 1), math.sqrt(5)),
        models={"enc": enc, "dec": dec, "old": old},
        trains={"penalty": "enc", "adv": "enc", "fit": ["enc", "dec"]},
    )
    line = losses.__code__.co_firstlineno + 2
    assert found.norms["fit"]["enc"] == pytest.approx(2 * math.sqrt(6))
    assert found.norms["fit"]["dec"] == pytest.approx(math.sqrt(21))
    printed = SNAPSHOT.format(place=f"tests/diagnosis/test_explain.py:{line}").strip()
    assert [s.rstrip() for s in str(found).splitlines()] == printed.splitlines()
    assert repr(found) == str(found)
