"""Rules that look at gradients, in a Joint: they train, resume, refresh, watch, and fail without a trace."""

import copy
import gc
import io
import warnings
import weakref
from functools import partial

import pytest
import torch
from torch import nn
from torch.optim import LBFGS, SGD, Adam
from torch.utils.checkpoint import checkpoint

import cograd
from cograd import Joint, Phase, alternate, weighting
from cograd.errors import CogradError, NonFiniteLossError, PartialStepError, WeightingError
from cograd.gramian import At, Layerwise, Rows

BATCHES = [torch.randn(6, 4, generator=torch.Generator().manual_seed(i)).double() for i in range(8)]
LOOKING = {
    "PCGrad": weighting.PCGrad(seed=3),
    "GradVac": weighting.GradVac(seed=3),
    "MGDA": weighting.MGDA(),
    "CAGrad": weighting.CAGrad(),
    "IMTLG": weighting.IMTLG(),
    "NashMTL": weighting.NashMTL(),
    "FairGrad": weighting.FairGrad(),
    "AlignedMTL": weighting.AlignedMTL(),
    "UPGrad": weighting.UPGrad(),
    "DualProj": weighting.DualProj(),
    "ConFIG": weighting.ConFIG(),
    "GradNorm": weighting.GradNorm(),
    "LRAnnealing": weighting.LRAnnealing("b"),
    "function": lambda g: 1 / g.diagonal().sqrt(),
}
OTHERS = {
    "Random": weighting.Random(seed=1),
    "FAMO": weighting.FAMO(),
    "DWA": weighting.DWA(),
    "unseeded Random": weighting.Random(),
    "unseeded PCGrad": weighting.PCGrad(),
}
NAMES = ("a", "b", "c")


def networks(*more):
    torch.manual_seed(5)
    encoder = nn.Sequential(nn.Linear(4, 8), *more, nn.Tanh(), nn.Linear(8, 6), nn.Tanh())
    models = {"encoder": encoder, "a": nn.Linear(6, 1), "b": nn.Linear(6, 2), "c": nn.Linear(6, 1)}
    return {name: model.double() for name, model in models.items()}


def losses(m, x):
    z = m["encoder"](x)
    return {
        "a": (m["a"](z) - x[:, :1]).square().mean(),
        "b": 4 * (m["b"](z) + x[:, :2]).square().mean(),
        "c": (m["c"](z) - x[:, 1:2].sin()).square().mean() + 0.1 * m["c"].weight.square().sum(),
    }


def build(rule=None, models=None, **options):
    options = {"optimizers": partial(SGD, lr=0.05, momentum=0.9), "losses": losses} | options
    return Joint(models=networks() if models is None else models, weighting=rule, **options)


def parameters(joint, names=("encoder", *NAMES)):
    return [p for name in names for p in joint.models[name].parameters()]


# -- training and resuming -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", LOOKING.values(), ids=LOOKING)
def test_a_joint_trains_under_the_rule(rule):
    joint = build(rule)
    start = sum(joint.evaluate(BATCHES[0]).values())
    for _ in range(25):
        report = joint.step(BATCHES[0])
    assert sum(joint.evaluate(BATCHES[0]).values()) < 0.7 * start
    assert report.gramian.names == NAMES


def saved(joint):
    """The state, through a file."""
    file = io.BytesIO()
    torch.save(joint.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("refresh", [1, 3])
@pytest.mark.parametrize("rule", (LOOKING | OTHERS).values(), ids=LOOKING | OTHERS)
def test_a_run_resumes_bit_for_bit(rule, refresh, picture, same):
    """Saved after four steps: in the middle of an interval of three."""
    if rule in OTHERS.values() and refresh > 1 and rule is not OTHERS["unseeded PCGrad"]:
        with pytest.raises(WeightingError, match="refresh=3 spares Gramians"):
            build(rule, refresh=refresh)
        return
    straight = build(rule, networks(nn.Dropout(0.2)), refresh=refresh, optimizers=Adam)
    torch.manual_seed(9)
    for i, x in enumerate(BATCHES):
        if i == 4:
            state, numbers = saved(straight), torch.get_rng_state()
        straight.step(x)
        if i % 2:
            straight.end_epoch()
    torch.manual_seed(1234)
    resumed = build(rule, networks(nn.Dropout(0.2)), refresh=refresh, optimizers=Adam)
    resumed.load_state_dict(state)
    torch.set_rng_state(numbers)
    for i, x in enumerate(BATCHES[4:], 4):
        resumed.step(x)
        if i % 2:
            resumed.end_epoch()
    expected, found = picture(straight), picture(resumed)
    for each in (expected, found):
        each.pop("grad objects")
    same(expected, found)


# -- refresh ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", [None, Rows(), Layerwise(), At("encoder")])
def test_the_steps_between_use_the_weights_of_the_last_gramian(engine):
    fixed = {"b": 0.5}
    joint = build(weighting.MGDA(), refresh=3, gramian=engine, weights=fixed)
    twin = networks()
    optimizer = SGD([p for m in twin.values() for p in m.parameters()], lr=0.05, momentum=0.9)
    for i, x in enumerate(BATCHES):
        report = joint.step(x)
        assert (report.gramian is not None) == (i % 3 == 0)
        if i % 3 == 0:
            weights = report.weights
        assert report.weights == weights
        values = losses(twin, x)
        encoder = list(twin["encoder"].parameters())
        total = sum(weights[k] * values[k] for k in NAMES)
        gradients = torch.autograd.grad(total, encoder, retain_graph=True)
        for name in NAMES:
            own = list(twin[name].parameters())
            for p, g in zip(own, torch.autograd.grad(values[name], own, retain_graph=True), strict=True):
                p.grad = fixed.get(name, 1.0) * g
        for p, g in zip(encoder, gradients, strict=True):
            p.grad = g
        optimizer.step()
    for name in twin:
        for p, q in zip(joint.models[name].parameters(), twin[name].parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)


def test_a_loss_that_was_not_weighed_makes_the_gramian_due():
    def partly(m, x):
        found = losses(m, x)
        return found if len(x) == 6 else found | {"c": None}

    joint = build(weighting.UPGrad(), losses=partly, refresh=4)
    short, full = BATCHES[0][:5], BATCHES[0]
    seen = [joint.step(x).gramian for x in (short, short, full, short, full, full, full)]
    assert [None if g is None else g.names for g in seen] == [("a", "b"), None, NAMES, None, None, None, NAMES]


# -- phases ----------------------------------------------------------------------------------------------------------


def test_each_phase_has_its_own_rule_and_sees_only_what_it_trains(reference):
    phases = [
        Phase(("encoder", "a"), weighting=weighting.UPGrad()),
        Phase(("encoder", "b", "c"), weighting=weighting.MGDA()),
        Phase("encoder", weighting=weighting.Fixed({"a": 0.5})),
    ]
    joint = build(weighting.PCGrad(), phases=phases, optimizers=partial(SGD, lr=0.05))
    twin = networks()
    report = joint.step(BATCHES[0])
    for phase, seen, rule in zip(phases, report.phases, (weighting.UPGrad(), weighting.MGDA(), None), strict=True):
        values = losses(twin, BATCHES[0])
        trained = [p for name in phase.models for p in twin[name].parameters()]
        if rule is None:
            total = 0.5 * values["a"] + values["b"] + values["c"]
            gradients = dict(zip(trained, torch.autograd.grad(total, trained), strict=True))
            assert seen.gramian is None
        else:
            expected = reference(values, trained, rule=lambda g, rule=rule: rule(gramian=g))
            gradients = expected.gradients
            torch.testing.assert_close(seen.gramian.matrix, expected.matrix, rtol=1e-10, atol=1e-12)
            assert seen.weights == pytest.approx(expected.weights)
            assert seen.plan.rule == type(rule).__name__
        with torch.no_grad():
            for p, g in gradients.items():
                p -= 0.05 * g
    for name in twin:
        for p, q in zip(joint.models[name].parameters(), twin[name].parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-10, atol=1e-12)


def test_routes_and_phases_together(reference, rule):
    trains = {"a": ["encoder", "a"], "b": ["encoder", "b"], "c": "c"}
    joint = build(rule, trains=trains, optimizers=partial(SGD, lr=0.05), gramian=Rows())
    twin = networks()
    report = joint.step(BATCHES[0])
    owner = {p: name for name, model in twin.items() for p in model.parameters()}
    expected = reference(
        losses(twin, BATCHES[0]), list(owner), lambda k, p: owner[p] in trains[k] or owner[p] == trains[k], rule=rule
    )
    assert report.gramian.names == ("a", "b")
    assert {k: float(w) for k, w in report.weights.items()} == pytest.approx(expected.weights)
    for p, q in zip(parameters(joint), owner, strict=True):
        torch.testing.assert_close(p, q - 0.05 * expected.gradients[q], rtol=1e-10, atol=1e-12)


def test_a_plan_names_the_rule():
    joint = build(phases=[Phase(("encoder", *NAMES), weighting=weighting.UPGrad()), Phase("encoder")])
    for plan in (joint.plan(BATCHES[0]), [joint.step(BATCHES[0]), joint.plan()][1]):
        text = str(plan)
        assert "UPGrad weighs the gradients of a, b, c in what they share of encoder, a, b, c" in text
        assert text.count("UPGrad") == 1
        assert "1 backward pass" in text


def test_a_rule_that_needs_only_the_losses_weighs_all_of_the_gradient():
    joint, plain = build(weighting.Fixed({"b": 0.5})), build(weights={"b": 0.5})
    for x in BATCHES[:3]:
        assert joint.step(x).gramian is None
        plain.step(x)
    assert all(p.equal(q) for p, q in zip(parameters(joint), parameters(plain), strict=True))


# -- FAMO: a second look ---------------------------------------------------------------------------------------------


def test_famo_equals_the_loop_by_hand():
    """Both looks see the same dropout; the second leaves numbers, statistics, flags and modes alone."""
    extra = nn.BatchNorm1d(8), nn.Dropout(0.4)
    joint = build(weighting.FAMO(), networks(*copy.deepcopy(extra)))
    twin = networks(*copy.deepcopy(extra))
    twin["a"].bias.requires_grad = joint.models["a"].bias.requires_grad = False
    twin["encoder"][1].eval()
    joint.models["encoder"][1].eval()
    twin["encoder"][2].train()
    for model in (twin["encoder"], joint.models["encoder"]):
        model.append(nn.BatchNorm1d(6).double())
    optimizer = SGD([p for m in twin.values() for p in m.parameters()], lr=0.05, momentum=0.9)
    joint.optimizers["encoder"].add_param_group({"params": list(joint.models["encoder"][-1].parameters())})
    balance = weighting.Stateful(weighting.FAMO())
    torch.manual_seed(3)
    flags = [p.requires_grad for p in parameters(joint)]
    modes = [m.training for name in joint.models for m in joint.models[name].modules()]
    found = [joint.step(x).weights for x in BATCHES]
    numbers = torch.get_rng_state()
    assert [p.requires_grad for p in parameters(joint)] == flags
    assert [m.training for name in joint.models for m in joint.models[name].modules()] == modes
    torch.manual_seed(3)
    for x, weights in zip(BATCHES, found, strict=True):
        before = torch.get_rng_state()
        optimizer.zero_grad()
        report = cograd.backward(losses(twin, x), weighting=balance)
        optimizer.step()
        after, buffers = torch.get_rng_state(), copy.deepcopy(dict(twin["encoder"].named_buffers()))
        torch.set_rng_state(before)
        with torch.no_grad():
            balance.after({name: loss.detach() for name, loss in losses(twin, x).items()})
            for key, b in twin["encoder"].named_buffers():
                b.copy_(buffers[key])
        torch.set_rng_state(after)
        assert [float(w) for w in weights.values()] == [float(w) for w in report.weights.values()]
    assert torch.get_rng_state().equal(numbers)
    assert len({float(weights["a"]) for weights in found}) == len(BATCHES)
    for name, model in twin.items():
        for key, value in model.state_dict().items():
            assert value.equal(joint.models[name].state_dict()[key]), f"{name}.{key}"


def test_a_second_look_that_fails_is_a_partial_step():
    calls = []

    def fails(m, x):
        calls.append(x)
        if len(calls) == 2:
            raise ValueError("second look")
        return losses(m, x)

    joint = build(weighting.FAMO(), losses=fails)
    with pytest.raises(PartialStepError, match="second look"):
        joint.step(BATCHES[0])
    assert all(p.requires_grad and p.grad is None for p in parameters(joint))


# -- what an exception leaves ----------------------------------------------------------------------------------------


class Breaks(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        raise KeyError("engine")


def broken_losses(how):
    def evaluated(m, change):
        x = BATCHES[0]
        found = losses(m, x)
        if change == "nan":
            found["b"] = found["b"] * torch.nan
        elif change == "engine":
            found["b"] = Breaks.apply(m["encoder"](x)).sum()
        elif change == "shared engine":
            z = Breaks.apply(m["encoder"](x))
            found |= {"a": z.sum(), "b": z.square().sum()}
        return found

    return evaluated


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("change", ["nan", "engine", "shared engine", "rule", "rule gives NaN"])
@pytest.mark.parametrize("rule", [weighting.PCGrad(seed=1), weighting.GradNorm()], ids=["PCGrad", "GradNorm"])
@pytest.mark.parametrize("refresh", [1, 2])
def test_a_failure_leaves_everything_as_it_was(change, steps, rule, refresh, picture, same):
    fails = []

    def moody(gramian):
        if fails and change == "rule":
            raise KeyError("rule")
        return gramian.diagonal() * (torch.nan if fails else 0.1)

    rule = moody if change.startswith("rule") else rule
    joint = build(rule, losses=broken_losses(change), refresh=refresh)
    twin = build(rule, losses=broken_losses(change), refresh=refresh)
    for _ in range(steps):
        joint.step("fine")
        twin.step("fine")
    for i, p in enumerate(parameters(joint)):
        p.grad = torch.full_like(p, float(i))
    before = picture(joint)
    fails.append(1)
    with pytest.raises((KeyError, CogradError, RuntimeError)):
        joint.step(change)
    same(before, picture(joint))
    fails.clear()
    joint.step("fine")
    twin.step("fine")
    assert all(p.equal(q) for p, q in zip(parameters(joint), parameters(twin), strict=True))


@pytest.mark.parametrize("check", ["late", "off"])
def test_a_loss_of_nan_is_noticed_by_the_rule_where_the_check_is_not_now(check, picture, same):
    joint = build(weighting.UPGrad(), losses=broken_losses("nan"), check=check)
    before = picture(joint)
    with pytest.raises(NonFiniteLossError, match="loss 'b' is nan"):
        joint.step("nan")
    same(before, picture(joint))


def test_a_loss_of_nan_is_named():
    joint = build(weighting.UPGrad(), losses=broken_losses("nan"))
    with pytest.raises(NonFiniteLossError, match="'b'"):
        joint.step("nan")


# -- LBFGS -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("search", [None, "strong_wolfe"])
@pytest.mark.parametrize("engine", [None, Rows()])
def test_lbfgs_minimises_the_sum_with_the_weights_of_its_first_evaluation(engine, search):
    whole = nn.ModuleDict(networks())
    twin = copy.deepcopy(whole)
    joint = Joint(
        models={"net": whole},
        losses=lambda m, x: losses(m.net, x),
        optimizers=partial(LBFGS, lr=0.3, max_iter=4, line_search_fn=search),
        weighting=weighting.MGDA(),
        gramian=engine,
    )
    optimizer = LBFGS(twin.parameters(), lr=0.3, max_iter=4, line_search_fn=search)
    for x in BATCHES[:3]:
        weights = joint.step(x).weights

        def closure(x=x, weights=weights):
            values = losses(twin, x)
            total = sum(weights[k] * values[k] for k in NAMES)
            optimizer.zero_grad()
            total.backward()  # the heads too: a search needs the gradient of the value that it compares
            return total.detach()

        optimizer.step(closure)
    for p, q in zip(whole.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-8, atol=1e-10)


# -- At --------------------------------------------------------------------------------------------------------------


def test_at_a_model_compares_what_arrives_at_its_output(rule):
    joint = build(rule, gramian=At("encoder"), weights={"c": 3.0})
    twin = networks()
    z = twin["encoder"](BATCHES[0]).detach().requires_grad_()
    values = losses(twin | {"encoder": lambda x: z}, BATCHES[0])
    rows = torch.stack([torch.autograd.grad(values[k], z, retain_graph=True)[0].flatten() for k in NAMES])
    report = joint.step(BATCHES[0])
    torch.testing.assert_close(report.gramian.matrix, rows @ rows.T, rtol=1e-10, atol=1e-12)
    scale = torch.tensor([1.0, 1.0, 3.0], dtype=torch.float64)
    expected = rule((rows @ rows.T) * scale * scale[:, None]) * scale
    assert list(report.weights.values()) == pytest.approx(expected.tolist(), rel=1e-9)
    assert not joint.models["encoder"]._forward_hooks


def test_at_follows_a_model_that_is_called_twice(rule):
    def twice(m, x):
        y, z = m["encoder"](x), m["encoder"](x.flip(0))
        return {"a": (m["a"](y) * m["a"](z)).mean(), "b": m["b"](y - z).square().mean()}

    joint = build(rule, gramian=At("encoder"), losses=twice, phases=[Phase(("encoder", "a", "b"))], models=pair())
    report = joint.step(BATCHES[0])
    twin = pair()
    y, z = (twin["encoder"](x).detach().requires_grad_() for x in (BATCHES[0], BATCHES[0].flip(0)))
    outputs = iter((y, z))
    values = twice(twin | {"encoder": lambda x: next(outputs)}, BATCHES[0])
    rows = torch.stack([torch.cat(torch.autograd.grad(v, (y, z))).flatten() for v in values.values()])
    torch.testing.assert_close(report.gramian.matrix, rows @ rows.T, rtol=1e-10, atol=1e-12)


def pair():
    models = networks()
    del models["c"]
    return models


@pytest.mark.parametrize("use", [Joint.plan, Joint.step])
def test_at_lets_go_of_the_graph(use):
    joint, seen = build(weighting.MGDA(), gramian=At("encoder")), []
    joint.models["encoder"].register_forward_hook(lambda m, x, y: seen.append(weakref.ref(y)))
    use(joint, BATCHES[0])
    gc.collect()
    assert [ref() for ref in seen] == [None]


def test_at_an_unknown_model_is_refused():
    with pytest.raises(WeightingError, match=r"'encodre'\) names no model"):
        build(weighting.MGDA(), gramian=At("encodre"))
    with pytest.raises(WeightingError, match="takes the name of a model"):
        build(weighting.MGDA(), gramian=At(torch.zeros(1, requires_grad=True)))


def test_at_a_model_that_was_not_called_is_refused(picture, same):
    def around(m, x):
        return losses({**{n: m[n] for n in m}, "encoder": lambda x: m["encoder"].forward(x)}, x)

    joint = build(weighting.MGDA(), gramian=At("encoder"), losses=around)
    before = picture(joint)
    with pytest.raises(WeightingError, match="did not call that model"):
        joint.step(BATCHES[0])
    same(before, picture(joint))


def test_at_in_a_graph_with_forbidden_routes_is_refused(picture, same):
    joint = build(weighting.MGDA(), gramian=At("encoder"), trains={"c": "c"})
    before = picture(joint)
    with pytest.raises(WeightingError, match="every loss trains all models that it reaches"):
        joint.step(BATCHES[0])
    same(before, picture(joint))


# -- watch and report.gramian ----------------------------------------------------------------------------------------


class Checkpointed(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return checkpoint(self.inner, x, use_reentrant=False)


def normed():
    models = networks(nn.BatchNorm1d(8), nn.Dropout(0.3))
    return models | {"encoder": Checkpointed(models["encoder"])}


@pytest.mark.parametrize("models", [lambda: networks(nn.BatchNorm1d(8), nn.Dropout(0.3)), normed])
@pytest.mark.parametrize("rule", [None, weighting.FirstValue(), weighting.FAMO(), weighting.Random(seed=2)])
@pytest.mark.parametrize("engine", [None, Rows(), Layerwise()])
def test_watching_changes_nothing_of_the_training(rule, engine, models, picture, same):
    pictures = []
    for watch in (0, 3):
        joint = build(rule, models(), watch=watch, gramian=engine if watch else None)
        torch.manual_seed(2)
        reports = [joint.step(x) for x in BATCHES]
        pictures.append(picture(joint) | {"numbers": torch.get_rng_state()})
        pictures[-1].pop("grad objects")
    same(*pictures)
    assert [i for i, report in enumerate(reports) if report.gramian] == [0, 3, 6]


@pytest.mark.parametrize("trains", [None, {"a": "a", "b": ["encoder", "b"]}])
def test_several_passes_and_rules_move_checkpointed_statistics_once(trains):
    """As the same network does in which each forward is followed by one plain backward."""
    for rule in (None, weighting.UPGrad()):
        joint = build(rule, normed(), trains=trains)
        twin = normed()
        torch.manual_seed(2)
        joint.step(BATCHES[0])
        torch.manual_seed(2)
        sum(losses(twin, BATCHES[0]).values()).backward()
        for a, b in zip(joint.models["encoder"].buffers(), twin["encoder"].buffers(), strict=True):
            assert a.equal(b)


@pytest.mark.parametrize("engine", [None, Rows(), Layerwise()])
@pytest.mark.parametrize("fixed", [None, {"a": 0.2, "c": -3.0}])
@pytest.mark.parametrize("options", [{"watch": 1}, {"weighting": weighting.UPGrad()}])
def test_the_report_is_of_the_raw_losses(engine, fixed, options, reference):
    joint = build(options.get("weighting"), watch=options.get("watch", 0), gramian=engine, weights=fixed)
    twin = networks()
    leaves = [p for model in twin.values() for p in model.parameters()]
    found = joint.step(BATCHES[0]).gramian
    values = losses(twin, BATCHES[0])
    rows = {
        k: torch.cat([torch.autograd.grad(v, p, retain_graph=True)[0].flatten() for p in twin["encoder"].parameters()])
        for k, v in values.items()
    }
    assert found.names == NAMES
    assert found.norms == pytest.approx({k: float(g.norm()) for k, g in rows.items()}, rel=1e-10)
    pairs = [("a", "b"), ("a", "c"), ("b", "c")]
    cosines = {(i, j): float(torch.cosine_similarity(rows[i], rows[j], dim=0)) for i, j in pairs}
    assert found.cosines == pytest.approx(cosines, rel=1e-9)
    assert found.conflicts == tuple(pair for pair in pairs if cosines[pair] < 0)
    torch.testing.assert_close(found.matrix, reference(values, leaves).matrix, rtol=1e-10, atol=1e-12)


# -- what is refused, and what warns ---------------------------------------------------------------------------------


def apart(m, x):
    return {"a": m["a"](x).square().mean(), "b": m["b"](x).sin().mean()}


def strangers():
    torch.manual_seed(1)
    return {"a": nn.Linear(4, 1).double(), "b": nn.Linear(4, 1).double()}


def test_losses_that_share_nothing_warn_and_train_plainly():
    joint = build(weighting.UPGrad(), strangers(), losses=apart)
    with pytest.warns(UserWarning, match="UPGrad weighs what losses share, and these share no parameter") as caught:
        report = joint.step(BATCHES[0])
    assert caught[0].filename == __file__
    assert report.gramian is None
    plain = build(None, strangers(), losses=apart)
    plain.step(BATCHES[0])
    assert all(p.equal(q) for p, q in zip(parameters(joint, "ab"), parameters(plain, "ab"), strict=True))


def test_watching_losses_that_share_nothing_reports_nothing():
    joint = build(None, strangers(), losses=apart, watch=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert joint.step(BATCHES[0]).gramian is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"gramian": Rows()}, "no rule that looks at them"),
        ({"gramian": Rows(), "rule": weighting.Log()}, "no rule that looks at them"),
        ({"refresh": 2}, "no rule needs them"),
        ({"refresh": 2, "rule": weighting.Log()}, "no rule needs them"),
        ({"refresh": 0, "rule": weighting.MGDA()}, "refresh must be a whole number"),
        ({"refresh": 1.5, "rule": weighting.MGDA()}, "refresh must be a whole number"),
        ({"watch": -1}, "watch must be a whole number"),
        ({"gramian": "rows", "rule": weighting.MGDA()}, "gramian takes"),
    ],
)
def test_options_without_a_rule_for_gradients_are_refused(options, words):
    with pytest.raises(WeightingError, match=words):
        build(**options)


def test_a_rule_of_one_phase_is_enough_for_the_options():
    phases = [*alternate("a"), Phase(("encoder", "b", "c"), weighting=weighting.UPGrad())]
    joint = build(weighting.Log(), phases=phases, gramian=Rows(), refresh=2)
    assert [joint.step(x).gramian is not None for x in BATCHES[:4]] == [True, False, True, False]
