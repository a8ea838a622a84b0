"""Leaves that are no parameters: inputs that require grad are differentiated, and not compared."""

import warnings

import pytest
import torch
from torch import nn

import cograd
from cograd.gramian import At, Layerwise, Rows
from cograd.weighting import Stateful

ENGINES = {"automatic": None, "rows": Rows(), "layerwise": Layerwise()}
every_engine = pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)


def field():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(1, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 1)).double()


def points():
    return torch.linspace(0, 3, 5, dtype=torch.float64)[:, None].requires_grad_()


def physics(net, x):
    """Two losses of a PINN, and a third so that losses go side by side."""
    u = net(x)
    (slope,) = torch.autograd.grad(u.sum(), x, create_graph=True)
    return {
        "pde": (slope + u).square().mean(),
        "data": 9 * (u - x.sin() * 4).square().mean(),
        "size": u.abs().mean(),
    }


FORMS = {
    "backward": lambda losses, net, **how: cograd.backward(losses, **how),
    "models": lambda losses, net, **how: cograd.backward(losses, models={"net": net}, **how),
    "parameters": lambda losses, net, **how: cograd.backward(losses, models={"net": list(net.parameters())}, **how),
    "trains": lambda losses, net, **how: cograd.backward(losses, models={"net": net}, trains={"pde": "net"}, **how),
}


@every_engine
@pytest.mark.parametrize("present", [("pde", "data"), ("pde", "data", "size")], ids=["two", "three"])
@pytest.mark.parametrize("form", FORMS)
def test_the_points_of_a_pinn_are_not_compared(form, present, engine, rule, reference, agrees):
    net, twin, x, y = field(), field(), points(), points()
    ours, theirs = ({k: v for k, v in physics(*pair).items() if k in present} for pair in ((net, x), (twin, y)))
    expected = reference(theirs, list(twin.parameters()))
    (plain,) = torch.autograd.grad(sum(theirs.values()), y, retain_graph=True)
    report = FORMS[form](ours, net, weighting=rule, gramian=engine)
    agrees(report, list(net.parameters()), expected, list(twin.parameters()))
    if form == "trains":
        assert x.grad is None
    else:
        torch.testing.assert_close(x.grad, plain, rtol=1e-10, atol=1e-12)


@every_engine
def test_grad_compares_the_parameters_of_its_models(engine, rule, reference):
    net, twin, x = field(), field(), points()
    expected = reference(physics(twin, points()), list(twin.parameters()), fixed={"data": 0.5}).gradients
    ours = physics(net, x)
    found = cograd.grad(ours, models={"net": net}, weights={"data": 0.5}, weighting=rule, gramian=engine)
    for (name, g), q in zip(found["net"].items(), twin.parameters(), strict=True):
        if q in expected:
            torch.testing.assert_close(g, expected[q], rtol=1e-10, atol=1e-12, msg=name)
        else:
            assert g is None
    assert x.grad is None


@every_engine
def test_fixed_factors_scale_what_an_input_gets(engine, rule):
    net, x, y = field(), points(), points()
    weights = {"pde": 0.5, "size": -2.0}
    plain = sum(weights.get(name, 1.0) * loss for name, loss in physics(field(), y).items())
    cograd.backward(physics(net, x), weights=weights, weighting=rule, gramian=engine)
    torch.testing.assert_close(x.grad, torch.autograd.grad(plain, y)[0], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("how", ["refresh", "at"])
def test_an_input_gets_its_plain_gradient_where_nothing_is_carried_down_to_it(how, rule, reference):
    net, twin = field(), field()
    balance, found, expected = Stateful(rule, refresh=2 if how == "refresh" else 1), [], []
    for _ in range(2):
        x, y = points(), points()
        z = net[:2](x)
        u = net[2:](z)
        losses = {"a": (u - 1).square().mean(), "b": u.sin().mean() + x.square().mean()}
        cograd.backward(losses, weighting=balance, gramian=At(z) if how == "at" else None)
        u = twin(y)
        plain = (u - 1).square().mean() + u.sin().mean() + y.square().mean()
        found.append(x.grad)
        expected.append(torch.autograd.grad(plain, y)[0])
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def inputs_of_several():
    """Two pairs of losses with a network each, a loss of its own network, and one input for all of them."""
    torch.manual_seed(1)
    nets = nn.ModuleList([nn.Linear(3, 4).double() for _ in range(3)])
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    low = x.sin()
    first, second, third = (net(low) for net in nets)
    losses = {
        "a": first.square().mean(),
        "b": first.sin().mean() + low.cos().mean(),
        "c": second.square().mean() + x.mean(),
        "d": second.sin().mean(),
        "e": third.square().mean(),
    }
    return nets, x, losses


@every_engine
@pytest.mark.parametrize("refresh", [1, 2])
def test_an_input_that_unites_losses_which_share_nothing_else(engine, refresh, rule, reference, agrees):
    (nets, x, losses), (twins, y, theirs) = inputs_of_several(), inputs_of_several()
    expected = reference(theirs, list(twins.parameters()))
    (plain,) = torch.autograd.grad(sum(theirs.values()), y, retain_graph=True)
    balance = Stateful(rule, refresh=refresh)
    for _ in range(refresh):
        nets.zero_grad()
        x.grad = None
        report = cograd.backward(losses, weighting=balance, gramian=engine, retain_graph=True)
        torch.testing.assert_close(x.grad, plain, rtol=1e-10, atol=1e-12)
    if refresh == 1:
        agrees(report, list(nets.parameters()), expected, list(twins.parameters()))


@every_engine
def test_a_graph_that_need_not_be_retained_serves_every_set_of_losses(engine, rule):
    (_, x, losses), (_, y, theirs) = inputs_of_several(), inputs_of_several()
    cograd.backward(losses, weighting=rule, gramian=engine)
    torch.testing.assert_close(x.grad, torch.autograd.grad(sum(theirs.values()), y)[0], rtol=1e-10, atol=1e-12)


@every_engine
def test_where_only_an_input_is_shared_it_is_what_is_compared(engine, rule, reference, agrees):
    def scene():
        torch.manual_seed(2)
        heads = nn.ModuleList([nn.Linear(3, 2).double() for _ in range(3)])
        picture = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
        return [picture, *heads.parameters()], {f"{i}": h(picture).square().mean() for i, h in enumerate(heads)}

    (leaves, losses), (twins, theirs) = scene(), scene()
    report = cograd.backward(losses, weighting=rule, gramian=engine)
    agrees(report, leaves, reference(theirs, twins), twins)


@every_engine
def test_models_say_what_is_compared_and_everything_else_gets_its_plain_gradient(engine, rule, reference):
    def scene():
        torch.manual_seed(2)
        low, high = nn.Linear(3, 20).double(), nn.Linear(20, 20).double()
        heads = nn.ModuleList([nn.Linear(20, 2).double() for _ in range(3)])
        z = high(low(torch.ones(4, 3, dtype=torch.float64)).tanh()).tanh()
        return low, high, heads, {f"{i}": h(z).sin().mean() for i, h in enumerate(heads)}

    low, high, heads, losses = scene()
    twin_low, twin_high, twin_heads, theirs = scene()
    expected = reference(theirs, list(twin_high.parameters()))
    others = [*twin_low.parameters(), *twin_heads.parameters()]
    plain = torch.autograd.grad(sum(theirs.values()), others, retain_graph=True)
    report = cograd.backward(losses, models={"high": high}, weighting=rule, gramian=engine)
    torch.testing.assert_close(report.gramian.matrix, expected.matrix)
    for p, q in zip(high.parameters(), twin_high.parameters(), strict=True):
        torch.testing.assert_close(p.grad, expected.gradients[q])
    for p, g in zip([*low.parameters(), *heads.parameters()], plain, strict=True):
        torch.testing.assert_close(p.grad, g)


@every_engine
def test_models_that_share_nothing_warn_also_where_an_input_is_shared(engine, rule):
    x = torch.ones(2, 3, requires_grad=True)
    a, b = nn.Linear(3, 1), nn.Linear(3, 1)
    losses = {"a": a(x).sum(), "b": b(x).sum()}
    with pytest.warns(UserWarning, match="share no parameter"):
        cograd.backward(losses, models={"a": a, "b": b}, weighting=rule, gramian=engine)
    torch.testing.assert_close(x.grad, (a.weight + b.weight).expand(2, 3))


def test_the_weights_of_a_pinn_do_not_depend_on_how_it_is_called(rule):
    weights = []
    for call in FORMS.values():
        net = field()
        weights.append(call(physics(net, points()), net, weighting=cograd.weighting.IMTLG()).weights)
    net = field()
    joint = cograd.Joint(
        models={"net": net},
        losses=lambda m, _: physics(m.net, points()),
        optimizers=torch.optim.SGD,
        weighting=cograd.weighting.IMTLG(),
    )
    weights.append(joint.step(None).weights)
    for found in weights[1:]:
        assert found == pytest.approx(weights[0], rel=1e-9)


def test_a_hook_of_an_input_sees_what_it_gets(rule):
    net, x, seen = field(), points(), []
    x.register_post_accumulate_grad_hook(lambda leaf: seen.append(leaf.grad.clone()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cograd.backward(physics(net, x), weighting=rule)
    torch.testing.assert_close(seen[-1], x.grad)
