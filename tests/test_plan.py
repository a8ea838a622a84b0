"""The planner: exactly the declared gradients, in the fewest passes, for the graph of this very step."""

import weakref
from itertools import count

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import cograd
from cograd._backward import run
from cograd._plan import Planner

STEP = 0.1


@pytest.fixture
def walks(monkeypatch):
    """How many graphs have been walked: ``len(walks)``."""
    seen = []
    real = cograd._plan.walk

    def counting(losses, group_of):
        seen.append(len(losses))
        return real(losses, group_of)

    monkeypatch.setattr("cograd._plan.walk", counting)
    return seen


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=STEP)


# -- random architectures --------------------------------------------------------------------------------------------


def linears(n):
    torch.manual_seed(0)
    return {name: nn.Linear(2, 2).double() for name in "ABCD"[:n]}


@st.composite
def architectures(draw, n_models, n_losses):
    """Operations ``(model, input, cut)`` in order, and for each loss the values that it sums up."""
    operations = draw(
        st.lists(st.tuples(st.integers(0, n_models - 1), st.integers(0, 5), st.booleans()), min_size=1, max_size=6)
    )
    sums = draw(
        st.lists(
            st.lists(st.integers(0, len(operations)), min_size=1, max_size=3), min_size=n_losses, max_size=n_losses
        )
    )
    return operations, sums


def evaluate(architecture, models, x):
    operations, sums = architecture
    values, nets = [x], list(models.values())
    for model, at, cut in operations:
        value = values[at % len(values)]
        values.append(nets[model](value.detach() if cut else value).tanh())
    return [sum((values[i] * (n + 1)).square().mean() for n, i in enumerate(terms)) for terms in sums]


def reached(losses, models):
    """For each loss and model: the gradients, or None where none arrives. By autograd, one loss at a time."""
    table = {}
    for name, loss in losses.items():
        for model, net in models.items():
            got = torch.autograd.grad(loss, list(net.parameters()), retain_graph=True, allow_unused=True)
            if any(g is not None for g in got):
                table[name, model] = got
    return table


def declared(table, routes, models):
    """The gradients by hand: for each model the sum over the losses that train it."""
    total = {name: [None for _ in net.parameters()] for name, net in models.items()}
    for (loss, model), got in table.items():
        if loss not in routes or model in routes[loss]:
            total[model] = [
                b if a is None else a if b is None else a + b for a, b in zip(total[model], got, strict=True)
            ]
    return total


def assert_gradients(models, expected):
    for name, net in models.items():
        for p, g in zip(net.parameters(), expected[name], strict=True):
            if g is None:
                assert p.grad is None
            else:
                torch.testing.assert_close(p.grad, g, rtol=1e-10, atol=1e-10)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_random_architectures_get_exactly_the_declared_gradients(data):
    models = linears(data.draw(st.integers(1, 4)))
    architecture = data.draw(architectures(len(models), data.draw(st.integers(1, 4))))
    x = torch.linspace(-1, 1, 6, dtype=torch.float64).view(3, 2)
    losses = {f"loss{k}": loss for k, loss in enumerate(evaluate(architecture, models, x)) if loss.requires_grad}
    table = reached(losses, models)
    losses = {name: loss for name, loss in losses.items() if any(k == name for k, _ in table)}
    routes = {}
    for name in losses:
        if data.draw(st.booleans()):
            here = sorted(m for k, m in table if k == name)
            routes[name] = data.draw(st.lists(st.sampled_from(here), min_size=1, unique=True))
    if not losses:
        return
    expected = declared(table, routes, models)

    got = cograd.grad(losses, models=models, trains=routes, retain_graph=True)
    for name, net in models.items():
        for (key, _), g in zip(net.named_parameters(), expected[name], strict=True):
            if g is None:
                assert got[name][key] is None
            else:
                torch.testing.assert_close(got[name][key], g, rtol=1e-10, atol=1e-10)

    report = cograd.backward(losses, models=models, trains=routes)
    assert_gradients(models, expected)
    wanted = {(k, m) for k, m in table if k not in routes or m in routes[k]}
    ran = [(k, m) for p in report.plan.passes for k in p.losses for m in p.models if (k, m) in table]
    assert sorted(ran) == sorted(wanted)


@settings(max_examples=250, deadline=None)
@given(st.data())
def test_a_planner_that_has_seen_other_graphs_is_still_right(data):
    """The same losses, models and routes, but a new random graph in each of five steps."""
    models = linears(3)
    routes = data.draw(
        st.dictionaries(
            st.sampled_from(["loss0", "loss1", "loss2"]),
            st.lists(st.sampled_from("ABC"), min_size=1, unique=True),
        )
    )
    parameters = {name: list(net.parameters()) for name, net in models.items()}
    planner = Planner(parameters, routes)
    x = torch.linspace(-1, 1, 6, dtype=torch.float64).view(3, 2)
    graphs = data.draw(st.lists(architectures(3, 3), min_size=2, max_size=2))
    for i in data.draw(st.lists(st.integers(0, 1), min_size=5, max_size=5)):
        losses = {}
        for k, loss in enumerate(evaluate(graphs[i], models, x)):
            name = f"loss{k}"
            # what is declared must be reached, or it would be an error
            losses[name] = loss + sum(models[m](x).square().mean() for m in routes.get(name, "A"))
        expected = declared(reached(losses, models), routes, models)
        run(planner.plan(losses), losses, dict.fromkeys(losses, 1.0), parameters)
        assert_gradients(models, expected)
        assert not losses  # taken out as soon as no pass needs them, so that their graphs are freed
        for net in models.values():
            net.zero_grad()


# -- how many passes -------------------------------------------------------------------------------------------------


def passes(losses, models, trains):
    plan = cograd.backward(losses, models=models, trains=trains).plan
    return [str(p) for p in plan.passes]


def test_x_y_and_both_need_two_passes_not_three():
    models = linears(2)
    x = torch.ones(1, 2, dtype=torch.float64)
    both = models["B"](models["A"](x))
    losses = {"x": both.sum(), "y": both.square().sum(), "both": both.exp().sum()}
    ran = passes(losses, models, {"x": "A", "y": "B", "both": ["A", "B"]})
    assert ran == ["x + both -> A", "y + both -> B"]


@pytest.mark.parametrize(
    ("detach_for_disc", "detach_for_gen", "expected"),
    [
        (False, False, ["disc -> B", "gen -> A"]),
        (True, False, ["disc -> B", "gen -> A"]),  # gen still reaches the discriminator
        (False, True, None),  # gen reaches nothing that it trains
    ],
)
def test_the_number_of_passes_follows_the_graph(detach_for_disc, detach_for_gen, expected):
    models = linears(2)
    fake = models["A"](torch.ones(3, 2, dtype=torch.float64))
    losses = {
        "disc": models["B"](fake.detach() if detach_for_disc else fake).mean(),
        "gen": -models["B"](fake.detach() if detach_for_gen else fake).mean(),
    }
    routes = {"disc": "B", "gen": "A"}
    if expected is None:
        with pytest.raises(cograd.errors.UnreachedError, match="'gen' is declared to train 'A'"):
            passes(losses, models, routes)
    else:
        assert passes(losses, models, routes) == expected


def test_a_cut_in_user_code_saves_a_pass():
    """A probe on detached features needs no pass of its own; on attached ones it does."""
    models = linears(3)
    for cut, expected in [(True, ["task + probe -> A, B, C"]), (False, ["task -> A, B", "probe -> C"])]:
        hidden = models["A"](torch.ones(3, 2, dtype=torch.float64))
        losses = {
            "task": models["B"](hidden).square().mean(),
            "probe": models["C"](hidden.detach() if cut else hidden).square().mean(),
        }
        assert passes(losses, models, {"task": ["A", "B"], "probe": "C"}) == expected


def test_the_number_of_passes_follows_the_graph_in_every_step():
    """Also where a plan for the same losses is known already."""

    def losses(m, cut):
        hidden = m.A(torch.ones(3, 2, dtype=torch.float64))
        return {"task": m.B(hidden).mean(), "probe": m.C(hidden.detach() if cut else hidden).mean()}

    joint = cograd.Joint(models=linears(3), losses=losses, trains={"task": ["A", "B"], "probe": "C"}, optimizers=sgd)
    turns = [True, False, False, True, True, False, True]
    assert [len(joint.step(cut).phases[0].plan.passes) for cut in turns] == [1 if cut else 2 for cut in turns]


def test_losses_that_share_nothing_need_one_pass():
    models = linears(2)
    x = torch.ones(3, 2, dtype=torch.float64)
    losses = {"a": models["A"](x).mean(), "b": models["B"](x).mean()}
    assert passes(losses, models, {"a": "A", "b": "B"}) == ["a + b -> A, B"]


def test_a_frozen_model_is_no_obstacle():
    models = linears(2)
    models["A"].requires_grad_(False)
    x = torch.ones(3, 2, dtype=torch.float64)
    losses = {"a": models["B"](models["A"](x)).mean(), "b": models["B"](x).square().mean()}
    assert passes(losses, models, {"a": "B"}) == ["a + b -> B"]


def test_the_plan_says_why():
    models = linears(2)
    score = models["B"](models["A"](torch.ones(3, 2, dtype=torch.float64))).mean()
    plan = cograd.backward({"disc": score, "gen": -score}, models=models, trains={"disc": "B", "gen": "A"}).plan
    assert str(plan) == (
        "2 backward passes: disc reaches A without training it; gen reaches B without training it\n"
        "  1. disc -> B\n"
        "  2. gen -> A"
    )


# -- when a graph is walked ------------------------------------------------------------------------------------------


def score_losses(m, x):
    score = m.B(m.A(x))
    return {"disc": score.mean(), "gen": -score.square().mean()}


def test_no_walk_where_every_loss_trains_every_model(walks):
    models = linears(2)
    x = torch.ones(3, 2, dtype=torch.float64)
    cograd.backward(score_losses(cograd.Models(models), x), models=models)
    cograd.backward(score_losses(cograd.Models(models), x))
    assert walks == []
    joint = cograd.Joint(models=models, losses=score_losses, optimizers=sgd)
    joint.step(x)
    del walks[:]  # the first step looks for parameters that no model holds
    for _ in range(4):
        joint.step(x)
    assert walks == []


def test_no_walk_in_the_phases_of_a_gan(walks):
    """Each phase has one active loss and one model that is not frozen."""
    phases = cograd.alternate("B", "A")
    routes = {"disc": "B", "gen": "A"}
    joint = cograd.Joint(models=linears(2), losses=score_losses, trains=routes, optimizers=sgd, phases=phases)
    x = torch.ones(3, 2, dtype=torch.float64)
    joint.step(x)
    del walks[:]
    for _ in range(4):
        joint.step(x)
    assert walks == []


def test_a_graph_of_known_shape_is_not_walked_again(walks):
    joint = cograd.Joint(models=linears(2), losses=score_losses, trains={"disc": "B", "gen": "A"}, optimizers=sgd)
    for _ in range(5):
        joint.step(torch.ones(3, 2, dtype=torch.float64))
    assert len(walks) == 1


# -- graphs that change from step to step ----------------------------------------------------------------------------


def by_hand(models, losses, routes):
    """One SGD step on exactly the declared gradients; gives the parameters that it leads to."""
    gradients = declared(reached(losses, models), routes, models)
    return {
        name: [
            p.detach() if g is None else p.detach() - STEP * g
            for p, g in zip(net.parameters(), gradients[name], strict=True)
        ]
        for name, net in models.items()
    }


def assert_every_step(models, losses, routes, turns):
    joint = cograd.Joint(models=models, losses=losses, trains=routes, optimizers=sgd)
    for turn in turns:
        expected = by_hand(models, losses(joint.models, turn), routes)
        joint.step(turn)
        for name, net in models.items():
            for p, q in zip(net.parameters(), expected[name], strict=True):
                torch.testing.assert_close(p.detach(), q, rtol=1e-10, atol=1e-10)
    return joint


@settings(max_examples=30, deadline=None)
@given(turns=st.lists(st.sampled_from(["shared", "detached", "separate", "deeper", "swapped"]), min_size=2, max_size=6))
def test_a_gan_whose_graph_changes(turns):
    x = torch.linspace(-1, 1, 6, dtype=torch.float64).view(3, 2)

    def losses(m, turn):
        fake = m.A(x)
        if turn == "swapped":  # the generator's output no longer passes through the discriminator's first use
            return {"disc": m.B(x).mean() + 0 * fake.sum(), "gen": (fake * m.B(fake)).mean()}
        if turn == "deeper":
            return {"disc": m.B(m.A(m.A(x))).tanh().mean(), "gen": -m.B(m.B(fake)).mean()}
        score = m.B(fake)
        if turn == "shared":
            return {"disc": score.mean(), "gen": -score.square().mean()}
        other = m.B(fake.detach() if turn == "detached" else fake)
        return {"disc": other.mean(), "gen": -score.square().mean()}

    assert_every_step(linears(2), losses, {"disc": "B", "gen": "A"}, turns)


@settings(max_examples=30, deadline=None)
@given(turns=st.lists(st.integers(0, 3), min_size=2, max_size=6))
def test_a_loss_without_route_that_comes_to_reach_more(turns):
    """``free`` trains all that it reaches: now A, now B as well. ``fixed`` keeps the passes apart."""
    x = torch.linspace(-1, 1, 6, dtype=torch.float64).view(3, 2)

    def losses(m, turn):
        free = m.A(x).square().mean()
        if turn in (1, 3):
            free = free + m.B(x).square().mean()
        if turn in (2, 3):
            free = free + m.C(x).square().mean()
        return {
            "free": free,
            "fixed": (m.A(x) * m.B(x) * m.C(x)).mean(),
            "rest": (m.B(x) * m.C(x)).mean(),
        }

    assert_every_step(linears(3), losses, {"fixed": "A"}, turns)


def test_a_loss_that_comes_to_reach_a_model_that_it_must_not_train():
    """First one pass to everything in sight would do; ``own`` is absent all the time."""
    models = linears(2)
    x = torch.linspace(-1, 1, 6, dtype=torch.float64).view(3, 2)

    def losses(m, turn):
        if turn == 0:
            return {"first": m.A(x).mean(), "own": m.B(x).mean()}
        return {"first": m.A(m.B(x) if turn == 3 else x).mean(), "own": None}

    joint = cograd.Joint(models=models, losses=losses, trains={"first": "A", "own": "B"}, optimizers=sgd)
    joint.step(0)
    before = [p.detach().clone() for p in models["B"].parameters()]
    for turn in (1, 2, 3):
        joint.step(turn)
    assert all(map(torch.equal, before, models["B"].parameters()))


def test_branches_that_swap_models(walks):
    """The models trade places from step to step, so that every known path leads elsewhere."""
    x = torch.linspace(-1, 1, 6, dtype=torch.float64).view(3, 2)

    def losses(m, turn):
        first, second = (m.A, m.B) if turn % 2 else (m.B, m.A)
        return {
            "first": second(first(x)).mean(),
            "second": m.C(second(x)).square().mean(),
            "third": m.C(m.A(m.B(x))).mean(),
        }

    assert_every_step(linears(3), losses, {"first": ["A", "B"], "second": "C"}, range(6))


# -- what a pass leaves behind ---------------------------------------------------------------------------------------


class Held(torch.autograd.Function):
    """Identity whose graph node holds ``thing``."""

    @staticmethod
    def forward(ctx, x, thing):
        ctx.thing = thing
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        return g, None


class Asks(torch.autograd.Function):
    """Identity that calls ``ask()`` in its backward."""

    @staticmethod
    def forward(ctx, x, ask):
        ctx.ask = ask
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        ctx.ask()
        return g, None


class Thing:
    pass


def test_the_graph_of_an_early_pass_is_freed_before_the_next():
    alive = []

    def losses(m, x):
        thing = Thing()
        ref = weakref.ref(thing)
        score = m.B(m.A(x))
        first = Held.apply(score, thing).mean()
        second = Asks.apply(score, lambda: alive.append(ref() is not None)).square().mean()
        return {"first": first, "second": second}

    models = linears(2)
    x = torch.ones(3, 2, dtype=torch.float64)
    joint = cograd.Joint(models=models, losses=losses, trains={"first": "B", "second": "A"}, optimizers=sgd)
    for _ in range(3):
        joint.step(x)
    assert alive == [False] * 3

    def lazily():
        now = losses(cograd.Models(models), x)
        return {name: (lambda name=name: now.pop(name)) for name in list(now)}

    cograd.backward(lazily(), models=models, trains={"first": "B", "second": "A"})
    assert alive == [False] * 4


def test_operations_run_only_as_often_as_the_gradients_need():
    """What belongs to the first pass alone runs once; what both need runs twice."""
    ran = {"first": 0, "shared": 0, "second": 0}

    def tick(name):
        return lambda: ran.__setitem__(name, ran[name] + 1)

    models = linears(2)
    x = torch.ones(3, 2, dtype=torch.float64)
    shared = Asks.apply(models["B"](models["A"](x)), tick("shared"))
    losses = {
        "first": Asks.apply(shared, tick("first")).mean(),
        "second": Asks.apply(shared, tick("second")).square().mean(),
    }
    cograd.backward(losses, models=models, trains={"first": "B", "second": "A"})
    assert ran == {"first": 1, "shared": 2, "second": 1}


def test_a_graph_is_retained_only_where_a_later_pass_runs_it_again():
    models = linears(3)
    x = torch.ones(3, 2, dtype=torch.float64)

    def retained(losses, trains):
        return [p.retain for p in cograd.backward(losses, models=models, trains=trains).plan.passes]

    hidden = models["A"](x)
    probes = {"task": models["B"](hidden).square().mean(), "probe": models["C"](hidden).square().mean()}
    assert retained(probes, {"task": ["A", "B"], "probe": "C"}) == [False, False]
    score = models["B"](models["A"](x))
    adversaries = {"disc": score.mean(), "gen": score.square().mean()}
    assert retained(adversaries, {"disc": "B", "gen": "A"}) == [True, False]


# -- what is refused -------------------------------------------------------------------------------------------------


def test_a_parameter_of_no_model_is_refused():
    models = linears(2)
    x = torch.ones(3, 2, dtype=torch.float64)
    stranger = models.pop("B")
    joint = cograd.Joint(models=models, losses=lambda m, x: {"y": stranger(m.A(x)).mean()}, optimizers=sgd)
    with pytest.raises(
        cograd.errors.RouteError, match=r"parameter of shape \(2, 2\) that belongs to none of the models 'A'"
    ):
        joint.step(x)
    stranger.requires_grad_(False)
    joint.step(x)


def test_a_cut_that_appears_later_is_still_an_error():
    """Also where the plan was known: the model would silently stop to learn."""
    turns = count()

    def losses(m, x):
        fake = m.A(x)
        score = m.B(fake.detach() if next(turns) >= 3 else fake)
        return {"disc": score.mean(), "gen": -score.square().mean()}

    joint = cograd.Joint(models=linears(2), losses=losses, trains={"disc": "B", "gen": "A"}, optimizers=sgd)
    x = torch.ones(3, 2, dtype=torch.float64)
    for _ in range(3):
        joint.step(x)
    with pytest.raises(cograd.errors.UnreachedError, match="'gen' is declared to train 'A'"):
        joint.step(x)
