"""``cograd.backward`` against ``Tensor.backward``: one pass is the weighted sum, several are separate backwards."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import cograd

PRIVATE = {"one": ["trunk", "one"], "two": ["two"], "three": ["three"]}  # only one loss trains the trunk
NUMBERS = st.floats(-1e3, 1e3, width=32).filter(lambda x: x != 0)


def network(seed, dtype=torch.float32):
    torch.manual_seed(seed)
    trunk = nn.Sequential(nn.Linear(4, 6), nn.Tanh())
    models = {"trunk": trunk, "one": nn.Linear(6, 1), "two": nn.Linear(6, 3), "three": nn.Linear(6, 2)}
    return {name: model.to(dtype) for name, model in models.items()}, torch.randn(8, 4).to(dtype)


def losses(m, x):
    shared = m["trunk"](x)
    return {
        "one": m["one"](shared).square().mean(),
        "two": m["two"](shared).logsumexp(dim=1).mean(),
        "three": m["three"](shared).abs().sum(),
    }


def gradients(models):
    """Take the gradients out of ``.grad``."""
    taken = {f"{n}.{k}": p.grad for n, model in models.items() for k, p in model.named_parameters()}
    for model in models.values():
        model.zero_grad()
    return taken


def equal(a, b, rtol=0.0):
    assert a.keys() == b.keys()
    for key in a:
        torch.testing.assert_close(a[key], b[key], rtol=rtol, atol=rtol, msg=lambda text, at=key: f"{at}: {text}")


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**16), factors=st.tuples(NUMBERS, NUMBERS, NUMBERS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_weighted_backward_is_the_backward_of_the_weighted_sum(dtype, seed, factors):
    models, x = network(seed, dtype)
    a, b, c = factors
    now = losses(models, x)
    (a * now["one"] + b * now["two"] + c * now["three"]).backward()
    expected = gradients(models)
    report = cograd.backward(losses(models, x), weights={"one": a, "two": b, "three": c})
    assert len(report.plan.passes) == 1
    equal(gradients(models), expected)


def test_one_pass_equals_separate_backwards_to_rounding():
    models, x = network(0)
    for loss in losses(models, x).values():
        loss.backward(retain_graph=True)
    expected = gradients(models)
    cograd.backward(losses(models, x))
    equal(gradients(models), expected, rtol=1e-6)


def test_one_pass_over_disjoint_graphs_is_separate_backwards_bit_for_bit():
    def disjoint(m):
        return {"one": m["one"](torch.ones(2, 6)).square().mean(), "two": m["two"](torch.ones(2, 6)).exp().sum()}

    models, _ = network(0)
    del models["trunk"], models["three"]
    for loss in disjoint(models).values():
        loss.backward()
    expected = gradients(models)
    cograd.backward(disjoint(models), models=models, trains={"one": "one", "two": "two"})
    equal(gradients(models), expected)


def private_heads(models, now, factor=1.0):
    """By hand: ``one`` trains trunk and head, ``two`` and ``three`` only their heads."""
    everything = {f"{n}.{k}": p for n, model in models.items() for k, p in model.named_parameters()}
    total = dict.fromkeys(everything)
    for name, loss in now.items():
        mine = {key: p for key, p in everything.items() if key.split(".")[0] in PRIVATE[name]}
        for key, g in zip(
            mine, torch.autograd.grad(factor * loss.float(), mine.values(), retain_graph=True), strict=True
        ):
            total[key] = g if total[key] is None else total[key] + g
    return total


def test_several_passes_equal_separate_backwards():
    models, x = network(0)
    expected = private_heads(models, losses(models, x))
    report = cograd.backward(losses(models, x), models=models, trains=PRIVATE)
    assert len(report.plan.passes) == 2
    equal(gradients(models), expected)


@pytest.mark.parametrize("passes", [1, 2])
def test_to_rounding_under_bfloat16_autocast(passes):
    models, x = network(0)

    def now():
        with torch.autocast("cpu", torch.bfloat16):
            return losses(models, x)

    if passes == 1:
        for loss in now().values():
            loss.backward(retain_graph=True)
        expected, routes = gradients(models), None
    else:
        expected, routes = private_heads(models, now()), PRIVATE
    report = cograd.backward(now(), models=models, trains=routes)
    assert len(report.plan.passes) == passes
    for key, g in gradients(models).items():
        assert (g - expected[key]).norm() <= 1e-2 * expected[key].norm()


@pytest.mark.parametrize("factor", [0.7, 0.1, 3.3])
def test_bfloat16_losses_are_weighted_as_in_float32(factor):
    models, x = network(0, torch.bfloat16)
    expected = private_heads(models, losses(models, x), factor)
    weights = dict.fromkeys(PRIVATE, factor)
    report = cograd.backward(losses(models, x), models=models, trains=PRIVATE, weights=weights)
    equal(gradients(models), expected)
    for name, loss in losses(models, x).items():
        assert report.weighted[name].dtype == torch.float32
        assert report.weighted[name].item() == torch.tensor(factor).mul(loss.float()).item()


# -- as a drop-in ----------------------------------------------------------------------------------------------------


def test_adds_to_gradients_that_are_there():
    models, x = network(0)
    for _ in range(3):
        sum(losses(models, x).values()).backward()
    expected = gradients(models)
    for _ in range(3):
        cograd.backward(losses(models, x))
    equal(gradients(models), expected, rtol=1e-6)


def test_adds_in_several_passes_too():
    models, x = network(0)
    once = private_heads(models, losses(models, x))
    for model in models.values():
        for p in model.parameters():
            p.grad = torch.full_like(p, 10.0)
    cograd.backward(losses(models, x), models=models, trains=PRIVATE)
    equal(gradients(models), {key: g + 10.0 for key, g in once.items()}, rtol=1e-6)


@pytest.mark.parametrize("routes", [None, PRIVATE], ids=["all", "routes"])
def test_retain_graph(routes):
    models, x = network(0)
    now = losses(models, x)
    cograd.backward(now, models=models, trains=routes, retain_graph=True)
    first = gradients(models)
    cograd.backward(now, models=models, trains=routes)
    equal(gradients(models), first)
    with pytest.raises(RuntimeError, match="second time"):
        cograd.backward(now, models=models, trains=routes)


@pytest.mark.parametrize("routes", [None, PRIVATE], ids=["all", "routes"])
def test_create_graph_gives_gradients_that_can_be_differentiated(routes):
    models, x = network(0, torch.float64)
    weights = {"one": 2.0, "two": 0.5}
    parameters = [p for model in models.values() for p in model.parameters()]

    def squared(total):
        return sum(g.square().sum() for g in total)

    def hand():
        reached = routes or dict.fromkeys(losses(models, x), tuple(models))
        total = [torch.zeros_like(p) for p in parameters]
        for name, loss in losses(models, x).items():
            mine = [p for n in models if n in reached[name] for p in models[n].parameters()]
            scaled = weights.get(name, 1.0) * loss
            got = torch.autograd.grad(scaled, mine, create_graph=True, allow_unused=True)
            for p, g in zip(mine, got, strict=True):
                i = next(i for i, q in enumerate(parameters) if q is p)
                total[i] = total[i] if g is None else total[i] + g
        return torch.autograd.grad(squared(total), parameters)

    got = cograd.grad(losses(models, x), models=models, trains=routes, weights=weights, create_graph=True)
    second = torch.autograd.grad(squared([g for named in got.values() for g in named.values()]), parameters)
    for mine, theirs in zip(second, hand(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


def test_backward_with_create_graph():
    x = torch.tensor(3.0, requires_grad=True)
    with pytest.warns(UserWarning, match="reference cycle"):
        cograd.backward({"cube": lambda: x**3}, weights={"cube": 2.0}, create_graph=True)
    assert x.grad.item() == 54.0
    (second,) = torch.autograd.grad(x.grad, x)
    assert second.item() == 36.0
    x.grad = None


@pytest.mark.parametrize("routes", [None, PRIVATE], ids=["all", "routes"])
def test_grad_is_what_backward_adds_and_touches_nothing(routes):
    models, x = network(0)
    weights = {"one": 0.3, "three": -2.0}
    cograd.backward(losses(models, x), models=models, trains=routes, weights=weights)
    expected = gradients(models)
    got = cograd.grad(losses(models, x), models=models, trains=routes, weights=weights)
    equal({f"{name}.{key}": g for name, named in got.items() for key, g in named.items()}, expected, rtol=1e-6)
    assert all(p.grad is None for model in models.values() for p in model.parameters())


def test_grad_gives_none_where_nothing_arrives():
    models, x = network(0)
    models["two"].bias.requires_grad_(False)
    got = cograd.grad({"two": losses(models, x)["two"]}, models=models)
    assert got["one"] == {"weight": None, "bias": None}
    assert got["two"]["bias"] is None
    assert got["two"]["weight"].abs().sum() > 0


def test_parameters_may_be_given_as_a_list():
    models, x = network(0)
    expected = private_heads(models, losses(models, x))
    lists = {name: list(model.parameters()) for name, model in models.items()}
    got = cograd.grad(losses(models, x), models=lists, trains=PRIVATE)
    assert torch.equal(got["two"]["0"], expected["two.weight"])
    assert torch.equal(got["trunk"]["1"], expected["trunk.0.bias"])


def test_only_the_named_models_receive_gradients():
    """``trains`` that names every model of ``models`` still keeps away from others: it refuses them."""
    models, x = network(0)
    with pytest.raises(cograd.errors.RouteError, match="belongs to none of the models 'one'"):
        cograd.backward(losses(models, x), models={"one": models["one"]}, trains={"one": "one"})
    assert all(p.grad is None for model in models.values() for p in model.parameters())
    models["trunk"].requires_grad_(False)
    cograd.backward({"one": losses(models, x)["one"]}, models={"one": models["one"]}, trains={"one": "one"})
    assert [name for name, model in models.items() if any(p.grad is not None for p in model.parameters())] == ["one"]


@pytest.mark.parametrize("differentiate", [cograd.backward, cograd.grad])
def test_a_declared_route_that_is_cut_is_an_error(differentiate):
    models, x = network(0)
    score = models["one"](models["trunk"](x).detach()).mean()
    models = {"trunk": models["trunk"], "one": models["one"]}
    with pytest.raises(cograd.errors.UnreachedError, match="'score' is declared to train 'trunk'"):
        differentiate({"score": score}, models=models, trains={"score": ["trunk", "one"]})


@pytest.mark.parametrize("differentiate", [cograd.backward, cograd.grad])
def test_models_that_share_a_parameter_are_refused(differentiate):
    """Its gradient would be counted once for each of them."""
    models, x = network(0)
    whole = nn.Sequential(models["trunk"], models["one"])
    score = {"score": whole(x).mean()}
    with pytest.raises(cograd.errors.ModelError, match=r"whole\.1\.weight and one\.weight are the same parameter"):
        differentiate(score, models={"whole": whole, "one": models["one"]})
    models["one"].requires_grad_(False)
    differentiate(score, models={"whole": whole, "one": models["one"]})


@pytest.mark.parametrize(
    "options",
    [{}, {"weights": {"p": 2.0}}, {"weighting": cograd.weighting.Log()}],
    ids=["plain", "factor", "rule"],
)
def test_changing_a_gradient_in_place_changes_nothing_else(options):
    """A loss that is a view of a parameter: its ``.grad`` could be the very tensor that started the backward."""
    p = nn.Parameter(torch.ones(1))
    factor = options.get("weights", {}).get("p", 1.0)
    for _ in range(2):
        report = cograd.backward({"p": p.view(())}, **options)
        assert p.grad.tolist() == [factor]
        p.grad.mul_(7)
        assert float(report.weights["p"]) == factor
        p.grad = None
        got = cograd.grad({"p": p.view(())}, models={"m": [p]}, **options)["m"]["0"]
        assert got.tolist() == [factor]
        got.mul_(7)


@pytest.mark.parametrize("steps", [1, 3])
def test_a_rule_that_remembers_is_made_stateful_once(steps):
    models, x = network(0)
    balance = cograd.weighting.Stateful(cograd.weighting.FirstValue())
    first = {}
    for step in range(steps):
        now = losses(models, (step + 1) * x)
        for name, loss in now.items():
            first.setdefault(name, loss.detach())
        sum(loss / first[name] for name, loss in now.items()).backward()
        expected = gradients(models)
        cograd.backward(losses(models, (step + 1) * x), weighting=balance)
        equal(gradients(models), expected)
    assert balance.steps == steps
