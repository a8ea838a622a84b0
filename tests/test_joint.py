"""Joint: what runs when, what is evaluated, what is frozen, and what is reported."""

import warnings
from functools import partial

import pytest
import torch
from torch import nn
from torch.optim import LBFGS, SGD, Adam, Optimizer

import cograd
from cograd import Joint, Models, Phase, Report, StepPlan, StepReport, alternate, together
from cograd.weighting import FirstValue, Fixed, Log, RunningMean, RunningStd, Scheduled

X = torch.linspace(-1, 1, 32).reshape(8, 4)


def pair(**options):
    """Two models, one loss each; a batch may replace losses."""
    torch.manual_seed(4)
    models = {"a": nn.Linear(4, 1), "b": nn.Linear(4, 1)}

    def losses(m, batch):
        own = {"la": lambda: m.a(X).square().mean() + 0.1, "lb": lambda: m.b(X).square().mean() + 0.2}
        return own | (batch or {})

    return Joint(
        models=models,
        losses=options.pop("losses", losses),
        **{"trains": {"la": "a", "lb": "b"}, "optimizers": partial(SGD, lr=0.1)} | options,
    )


# -- which phase runs when -------------------------------------------------------------------------------------------


def ran(joint, steps):
    """For each step the models of the phases that ran."""
    return [[report.models for report in joint.step(None).phases] for _ in range(steps)]


def test_one_phase_updates_all_models_by_default():
    joint = pair()
    assert ran(joint, 2) == [[("a", "b")], [("a", "b")]]
    assert (joint.steps, joint.updates) == (2, {"a": 2, "b": 2})


def test_every_runs_on_the_nth_batches():
    joint = pair(phases=alternate("a", "b", every={"b": 3}))
    assert ran(joint, 7) == [[("a",)], [("a",)], [("a",), ("b",)]] * 2 + [[("a",)]]
    assert (joint.steps, joint.updates) == (7, {"a": 7, "b": 2})


@pytest.mark.parametrize("offset", [0, 1, 2, 5])
def test_offset_counts_the_batches_before_the_first_run(offset):
    joint = pair(phases=alternate("a", "b", every={"b": 3}, offset={"b": offset}))
    assert [("b",) in models for models in ran(joint, 12)] == [i in range(offset, 12, 3) for i in range(12)]


def test_a_run_of_offset_zero_is_that_of_a_loop_which_counts_from_zero():
    joint = pair(phases=[Phase("a"), Phase("b", every=2, offset=0, start=1, stop=6)])
    assert [("b",) in models for models in ran(joint, 8)] == [step % 2 == 0 and 1 <= step < 6 for step in range(8)]


def test_repeat_runs_on_the_same_batch_with_new_losses():
    joint = pair(phases=alternate("a", "b", repeat={"a": 3}))
    report = joint.step(None)
    values = [phase.losses["la"].item() for phase in report.phases[:3]]
    assert [phase.models for phase in report.phases] == [("a",)] * 3 + [("b",)]
    assert values[0] > values[1] > values[2]
    assert (joint.steps, joint.updates) == (1, {"a": 3, "b": 1})
    assert report.losses["la"].item() == values[2]


def test_start_and_stop_bound_a_phase_in_steps():
    joint = pair(phases=[Phase("a", stop=2), Phase("b", start=1, stop=3), *together("a", "b")[:0], Phase("a", start=4)])
    assert ran(joint, 6) == [[("a",)], [("a",), ("b",)], [("b",)], [], [("a",)], [("a",)]]
    assert (joint.steps, joint.updates) == (6, {"a": 4, "b": 2})


def test_every_counts_batches_from_the_first_not_from_start():
    joint = pair(phases=[Phase("a"), Phase("b", every=2, start=2, stop=7)])
    assert [("b",) in models for models in ran(joint, 9)] == [
        False,
        False,
        False,
        True,
        False,
        True,
        False,
        False,
        False,
    ]


def test_a_single_phase_needs_no_list():
    joint = pair(phases=Phase(("a", "b")))
    assert ran(joint, 1) == [[("a", "b")]]
    assert joint.phases == (Phase(("a", "b")),)


def test_together_and_alternate_are_lists_that_add():
    joint = pair(phases=together("a", "b") + alternate("b"))
    assert ran(joint, 1) == [[("a", "b"), ("b",)]]
    assert joint.updates == {"a": 1, "b": 2}


def test_a_turn_may_be_several_models():
    assert alternate(("a", "b"), "c", every={"b": 2}) == [Phase(("a", "b"), every=2), Phase("c")]


def test_a_later_phase_sees_the_updates_of_an_earlier_one():
    torch.manual_seed(0)
    joint = Joint(
        models={"a": nn.Linear(4, 1), "b": nn.Linear(1, 1)},
        losses=lambda m, x: {"l": m.b(m.a(x)).square().mean()},
        optimizers=partial(SGD, lr=0.1),
        phases=alternate("a", "b"),
    )
    report = joint.step(X)
    first, second = (phase.losses["l"] for phase in report.phases)
    assert second < first


def test_a_phase_counts_only_its_own_losses():
    joint = pair(
        losses=lambda m, x: {"la": m.a(X).mean(), "more": 10 * m.a(X).mean(), "lb": m.b(X).mean()},
        trains={"la": "a", "more": "a", "lb": "b"},
        phases=[Phase("a", losses="la"), Phase("b")],
    )
    before = joint.models.a.weight.clone()
    report = joint.step(None)
    assert [list(phase.losses) for phase in report.phases] == [["la"], ["lb"]]
    torch.testing.assert_close(before - joint.models.a.weight, 0.1 * X.mean(0, keepdim=True))


def test_a_phase_may_have_its_own_weighting():
    joint = pair(phases=[Phase("a", weighting=Log()), Phase("b")], weighting=Fixed({"lb": 3.0}), weights={"la": 2.0})
    report = joint.step(None)
    assert report.weights["la"].item() == pytest.approx(2 / report.losses["la"].item())
    assert report.weights["lb"] == 3.0


def test_each_phase_keeps_its_own_state_of_the_weighting():
    joint = Joint(
        models={"a": nn.Linear(4, 1), "b": nn.Linear(1, 1)},
        losses=lambda m, x: {"l": m.b(m.a(x)).square().mean() + 1},
        optimizers=partial(SGD, lr=0.1),
        phases=alternate("a", "b"),
        weighting=FirstValue(),
    )
    report = joint.step(X)
    assert [phase.weights["l"].item() for phase in report.phases] == pytest.approx(
        [1 / phase.losses["l"].item() for phase in report.phases]
    )
    first = [phase.weights["l"].item() for phase in report.phases]
    assert [phase.weights["l"].item() for phase in joint.step(X).phases] == first
    assert first[0] != first[1]


# -- what is evaluated -----------------------------------------------------------------------------------------------


def counted(calls, name, loss):
    def call():
        calls.append(name)
        return loss()

    return call


def test_a_callable_is_evaluated_only_in_phases_that_need_it():
    calls = []

    def losses(m, batch):
        calls.append("losses")
        return {
            "la": counted(calls, "la", lambda: m.a(X).mean()),
            "lb": counted(calls, "lb", lambda: m.b(X).mean()),
            "zero": counted(calls, "zero", lambda: m.b(X).mean()),
        }

    trains = {"la": "a", "lb": "b", "zero": "b"}
    joint = pair(losses=losses, trains=trains, weights={"zero": 0.0}, phases=alternate("a", "b", every={"b": 2}))
    joint.step(None)
    assert calls == ["losses", "la"]
    calls.clear()
    joint.step(None)
    assert calls == ["losses", "la", "losses", "lb"]


def test_a_loss_of_weight_zero_is_dropped():
    joint = pair(weights={"lb": 0.0}, optimizers=partial(SGD, lr=0.1, weight_decay=0.5))
    before = joint.models.b.weight.clone()
    report = joint.step(None)
    assert list(report.losses) == ["la"]
    assert report.skipped == ("b",)
    assert joint.models.b.weight.equal(before)
    assert joint.updates == {"a": 1, "b": 0}


def test_a_dropped_loss_may_even_be_nan():
    joint = pair(weights={"bad": 0.0})
    joint.step({"bad": lambda: joint.models.a(X).mean() * torch.nan})
    assert joint.models.a.weight.isfinite().all()


def test_a_schedule_drops_a_loss_while_its_weight_is_zero():
    calls = []
    joint = pair(weighting=Scheduled({"extra": lambda step: 0.0 if step < 2 else 0.5}))
    extra = {"extra": counted(calls, "extra", lambda: joint.models.a(X).mean())}
    seen = [list(joint.step(extra).losses) for _ in range(3)]
    assert seen == [["la", "lb"], ["la", "lb"], ["la", "lb", "extra"]]
    assert calls == ["extra"]


def test_absent_losses_train_nothing_and_are_told():
    joint = pair(losses=lambda m, here: {name: loss(m) for name, loss in here.items()}, missing="allow")
    la, lb = (lambda m: m.a(X).mean()), (lambda m: m.b(X).mean())
    joint.step({"la": la, "lb": lb})
    before = joint.models.b.weight.clone()
    for absent in ({"la": la}, {"la": la, "lb": lambda m: None}, {"la": la, "lb": lambda m: lambda: None}):
        report = joint.step(absent)
        assert list(report.losses) == ["la"]
        assert report.skipped == ("b",)
        assert joint.models.b.weight.equal(before)
    assert joint.updates == {"a": 4, "b": 1}
    report = joint.step({"la": lambda m: None, "lb": lambda m: None})
    assert report.skipped == ("a", "b")
    assert (joint.steps, joint.updates) == (5, {"a": 4, "b": 1})
    assert joint.step({}).skipped == ("a", "b")


def test_a_frozen_or_skipped_model_does_not_move_by_a_hair():
    joint = pair(
        phases=alternate("a", "b", every={"b": 4}),
        optimizers=partial(SGD, lr=0.1, momentum=0.9, weight_decay=0.1),
    )
    for _ in range(4):
        joint.step(None)
    before = joint.models.b.weight.clone()
    for _ in range(3):
        joint.step(None)
    joint.step({"lb": None})
    assert joint.models.b.weight.equal(before)


def test_a_loss_without_a_route_trains_all_that_it_reaches():
    torch.manual_seed(0)
    models = {"trunk": nn.Linear(4, 2), "left": nn.Linear(2, 1), "right": nn.Linear(2, 1)}
    joint = Joint(
        models=models,
        losses=lambda m, x: {"l": m.left(m.trunk(x)).mean(), "r": m.right(m.trunk(x)).mean()},
        optimizers=partial(SGD, lr=1.0),
    )
    before = {name: model.weight.clone() for name, model in models.items()}
    twins = {name: nn.Linear(model.in_features, model.out_features) for name, model in models.items()}
    for name, twin in twins.items():
        twin.load_state_dict(models[name].state_dict())
    (twins["left"](twins["trunk"](X)).mean() + twins["right"](twins["trunk"](X)).mean()).backward()
    joint.step(X)
    for name, twin in twins.items():
        torch.testing.assert_close(before[name] - models[name].weight, twin.weight.grad)


def test_a_loss_of_one_element_is_a_scalar():
    joint = pair()
    report = joint.step({"la": joint.models.a(X).mean().reshape(1, 1)})
    assert report.losses["la"].shape == ()


# -- what is frozen --------------------------------------------------------------------------------------------------


def test_other_models_are_frozen_while_a_phase_runs_and_thawed_after():
    seen = []

    def losses(m, batch):
        seen.append((m.a.weight.requires_grad, m.b.weight.requires_grad))
        return {"la": (m.a(X) + m.b(X)).square().mean(), "lb": (m.a(X) * m.b(X)).mean()}

    joint = pair(losses=losses, phases=alternate("a", "b"))
    joint.step(None)
    assert seen == [(True, False), (False, True)]
    assert all(p.requires_grad for name in joint.models for p in joint.models[name].parameters())


def test_what_the_user_froze_stays_frozen():
    joint = pair(phases=alternate("a", "b"))
    joint.models.b.bias.requires_grad_(False)
    before = joint.models.b.bias.clone()
    for _ in range(2):
        joint.step(None)
    joint.evaluate(None)
    joint.plan({})
    assert not joint.models.b.bias.requires_grad
    assert joint.models.b.bias.equal(before)
    joint.models.b.bias.requires_grad_(True)
    joint.step(None)
    assert not joint.models.b.bias.equal(before)


def test_frozen_models_keep_their_buffers_only_if_asked():
    def build(freeze):
        torch.manual_seed(0)
        models = {"gen": nn.Linear(4, 3), "disc": nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1))}
        return Joint(
            models=models,
            losses=lambda m, x: {"gen": m.disc(m.gen(x)).mean()},
            optimizers={"gen": SGD(models["gen"].parameters()), "disc": SGD(models["disc"].parameters())},
            phases=[Phase("gen"), Phase("disc", start=1)],
            freeze_buffers=freeze,
        )

    moving, still = build(False), build(True)
    moving.step(X)
    still.step(X)
    assert moving.models.disc[0].num_batches_tracked == 1
    assert still.models.disc[0].num_batches_tracked == 0
    assert still.models.disc[0].running_mean.equal(torch.zeros(3))
    still.step(X)
    assert still.models.disc[0].num_batches_tracked == 1  # only in its own phase


# -- evaluate --------------------------------------------------------------------------------------------------------


def normalised(**options):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(0.5), nn.Linear(3, 1))
    net[2].eval()  # the user's choice is kept
    return Joint(
        models={"net": net},
        losses=lambda m, x: {"fit": lambda: m.net(x).square().mean(), "never": None},
        optimizers=Adam,
        **options,
    )


def test_evaluate_gives_detached_losses_and_moves_nothing(picture, same):
    joint = normalised()
    joint.step(X)
    joint.models.net[0].weight.grad = torch.ones(3, 4)
    before, random = picture(joint), torch.get_rng_state()
    values = joint.evaluate(X)
    same(before, picture(joint))
    assert list(values) == ["fit"]
    assert not values["fit"].requires_grad
    assert joint.steps == 1
    assert torch.get_rng_state().equal(random)  # no dropout in eval mode
    joint.models.net.eval()
    same(joint.models.net(X).square().mean().detach(), values["fit"])


def test_evaluate_restores_everything_after_an_exception(picture, same):
    joint = normalised()
    before = picture(joint)
    with pytest.raises(TypeError):
        joint.evaluate("no tensor")
    same(before, picture(joint))


def test_evaluate_looks_at_every_loss_even_of_weight_zero_and_of_no_phase_now():
    joint = pair(weights={"la": 0.0}, phases=alternate("a", "b", every={"b": 100}))
    assert list(joint.evaluate(None)) == ["la", "lb"]


@pytest.mark.parametrize("grad_mode", [torch.enable_grad, torch.no_grad])
def test_evaluate_works_with_and_without_gradients(grad_mode):
    joint = pair()
    with grad_mode():
        values = joint.evaluate(None)
    assert not any(value.requires_grad for value in values.values())


def test_evaluate_works_with_a_gradient_penalty_inside(picture, same):
    torch.manual_seed(0)

    def losses(m, x):
        x = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(m.critic(x).sum(), x, create_graph=True)
        return {"penalty": (slope.norm(dim=1) - 1).square().mean()}

    critic = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    joint = Joint(models={"critic": critic}, losses=losses, optimizers=SGD)
    before = picture(joint)
    value = joint.evaluate(X)["penalty"]
    same(before, picture(joint))
    same(joint.step(X).losses["penalty"], value)


# -- plan ------------------------------------------------------------------------------------------------------------


def test_plan_is_open_before_the_first_step_and_known_after():
    joint = pair(phases=alternate("a", "b", every={"b": 2}))
    assert [plan for _, plan in joint.plan().phases] == [None, None]
    assert str(joint.plan()).count("run a step first, or give plan() a batch") == 2
    joint.step(None)
    (first, plan), (second, none) = joint.plan().phases
    assert (first, second) == joint.phases
    assert [(p.losses, p.models) for p in plan.passes] == [(("la",), ("a",))]
    assert none is None
    joint.step(None)
    text = str(joint.plan())
    assert "phase 1: update a\n" in text
    assert "phase 2: update b, every 2 batches\n" in text
    assert "1. lb -> b" in text


def test_plan_with_a_batch_puts_buffers_and_random_state_back(picture, same):
    joint = normalised()
    joint.models.net.train()
    before, random = picture(joint), torch.get_rng_state()
    plan = joint.plan(X)
    same(before, picture(joint))
    assert torch.get_rng_state().equal(random)
    assert isinstance(plan, StepPlan)
    assert str(plan) == (
        "phase 1: update net\n  1 backward pass: every loss trains every model that it reaches\n    1. fit -> net"
    )
    assert [p for _, p in joint.plan().phases] == [None]  # it has not run


def test_what_plan_foresees_is_what_runs():
    torch.manual_seed(0)
    joint = Joint(
        models={"gen": nn.Linear(4, 3), "disc": nn.Linear(3, 1)},
        losses=lambda m, x: {"disc": m.disc(m.gen(x)).mean(), "gen": -m.disc(m.gen(x)).mean()},
        trains={"disc": "disc", "gen": "gen"},
        optimizers=SGD,
    )
    foreseen = joint.plan(X)
    report = joint.step(X)
    assert [p.losses for p in foreseen.phases[0][1].passes] == [("disc",), ("gen",)]
    assert str(foreseen) == str(joint.plan())
    assert str(report.phases[0].plan) in str(foreseen).replace("\n  ", "\n")


def test_plan_does_not_change_what_the_next_steps_do(picture, same):
    def build():
        return pair(weighting=RunningStd(), phases=alternate("a", "b"))

    joint, twin = build(), build()
    for _ in range(3):
        joint.plan({})
        joint.step(None)
        joint.plan({"lb": None})
        joint.evaluate(None)
        twin.step(None)
    same(picture(twin), picture(joint))


# -- the report ------------------------------------------------------------------------------------------------------


def test_a_report_holds_what_happened():
    joint = pair(weights={"lb": 2.0}, weighting=Log(), grad_norms=True)
    models = {name: joint.models[name] for name in joint.models}
    losses = joint.evaluate(None)
    gradients = cograd.grad(
        {"la": models["a"](X).square().mean() + 0.1, "lb": models["b"](X).square().mean() + 0.2},
        models=models,
        weights={"lb": 2.0},
        weighting=Log(),
    )
    report = joint.step(None)
    assert isinstance(report, StepReport)
    (phase,) = report.phases
    assert isinstance(phase, Report)
    assert phase.models == ("a", "b")
    for name in ("la", "lb"):
        torch.testing.assert_close(report.losses[name], losses[name])
    assert report.weights["la"].item() == pytest.approx(1 / losses["la"].item())
    assert report.weights["lb"].item() == pytest.approx(2 / losses["lb"].item())
    assert {k: v.item() for k, v in report.weighted.items()} == pytest.approx({"la": 1.0, "lb": 2.0})
    for name, named in gradients.items():
        norm = torch.cat([g.flatten() for g in named.values()]).norm()
        torch.testing.assert_close(report.grad_norms[name], norm)
    assert report.skipped == ()
    assert report.without_grad == {}
    tensors = [*report.losses.values(), *report.weighted.values(), *report.weights.values()]
    assert not any(t.requires_grad for t in [*tensors, *report.grad_norms.values()])


def test_gradient_norms_are_not_computed_unless_asked_for():
    assert pair().step(None).grad_norms == {}


def test_half_precision_losses_are_weighted_in_float32():
    joint = pair(weights={"la": 0.7})
    report = joint.step({"la": joint.models.a(X).mean().to(torch.bfloat16)})
    assert report.losses["la"].dtype == torch.bfloat16
    assert report.weighted["la"].dtype == torch.float32
    assert report.weighted["la"].item() == pytest.approx(0.7 * report.losses["la"].item(), rel=1e-6)


def test_a_report_names_parameters_without_gradient():
    class Partly(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(4, 1), nn.Linear(4, 1)

        def forward(self, x):
            return self.used(x)

    joint = Joint(
        models={"net": Partly(), "other": nn.Linear(4, 1)},
        losses=lambda m, x: {"l": (m.net(x) + m.other(x)).mean()},
        optimizers=SGD,
    )
    report = joint.step(X)
    assert report.without_grad == {"net": ("unused.weight", "unused.bias")}
    assert joint.updates == {"net": 1, "other": 1}


def test_the_union_of_several_phases():
    joint = pair(phases=[Phase("a"), Phase("b"), Phase("a")], grad_norms=True)
    report = joint.step(None)
    assert list(report.losses) == ["la", "lb"]
    assert report.losses["la"] is report.phases[2].losses["la"]
    assert set(report.grad_norms) == {"a", "b"}
    assert set(report.weights) == {"la", "lb"}
    assert report.skipped == ()
    assert joint.step({"la": None}).skipped == ("a",)


def test_reports_as_text():
    joint = pair()
    report = joint.step({"la": (joint.models.a.weight * 0).sum() + 0.25})
    assert str(report) == f"la 0.25  lb {report.losses['lb'].item():.4g}"
    assert str(report.phases[0]) == str(report)


def test_reports_are_not_changed_by_later_steps():
    joint = pair(weighting=RunningMean())
    report = joint.step(None)
    losses = {name: value.item() for name, value in report.losses.items()}
    weights = {name: value.item() for name, value in report.weights.items()}
    joint.step(None)
    assert {name: value.item() for name, value in report.losses.items()} == losses
    assert {name: value.item() for name, value in report.weights.items()} == weights


@pytest.mark.parametrize("rule", [None, Log(), FirstValue(), RunningMean(), RunningStd(), Fixed({"la": 0.5})])
@pytest.mark.parametrize("phases", [None, alternate("a", "b")], ids=["at once", "in turns"])
@pytest.mark.parametrize("check", ["off", "late"])
def test_nothing_waits_for_a_tensor(rule, phases, check, monkeypatch):
    joint = pair(weighting=rule, phases=phases, check=check, grad_norms=True)

    def waits(*_):
        raise AssertionError("a step waited for a tensor")

    with monkeypatch.context() as patched:
        for name in ("item", "__bool__", "__float__", "__int__", "cpu", "numpy"):
            patched.setattr(torch.Tensor, name, waits)
        report = joint.step(None)
        if check == "off":
            report = joint.step(None)
    assert all(value.item() > 0 for value in report.losses.values())


# -- parts -----------------------------------------------------------------------------------------------------------


def test_optimizers_are_one_a_mapping_or_a_factory():
    models = pair().models
    parameters = [p for name in models for p in models[name].parameters()]
    one, by_name = SGD(parameters, 0.1), {"first": SGD(models.a.parameters()), "x": Adam(models.b.parameters())}
    options = {
        "models": {name: models[name] for name in models},
        "losses": lambda m, x: {"la": m.a(x).mean(), "lb": m.b(x).mean()},
    }
    assert Joint(optimizers=one, **options).optimizers == {"optimizer": one}
    assert Joint(optimizers=by_name, **options).optimizers == by_name
    made = Joint(optimizers=partial(Adam, lr=0.25), **options).optimizers
    assert {name: (type(o), o.defaults["lr"]) for name, o in made.items()} == {"a": (Adam, 0.25), "b": (Adam, 0.25)}
    assert list(made["a"].param_groups[0]["params"]) == [*models.a.parameters()]


def test_a_factory_leaves_out_what_is_frozen():
    a, b = nn.Linear(4, 1), nn.Linear(4, 1).requires_grad_(False)
    a.bias.requires_grad_(False)
    joint = Joint(models={"a": a, "b": b}, losses=lambda m, x: {"l": (m.a(x) * m.b(x)).mean()}, optimizers=SGD)
    assert list(joint.optimizers) == ["a"]
    assert list(joint.optimizers["a"].param_groups[0]["params"]) == [a.weight]
    assert joint.step(X).phases[0].models == ("a",)


def test_a_closure_optimizer_fits_a_line():
    torch.manual_seed(0)
    joint = Joint(
        models={"net": nn.Linear(4, 1)},
        losses=lambda m, x: {"fit": (m.net(x).squeeze() - x.sum(1)).square().mean()},
        optimizers=partial(LBFGS, line_search_fn="strong_wolfe"),
    )
    x = torch.randn(32, 4)
    first = joint.step(x).losses["fit"]
    assert joint.step(x).losses["fit"] < 1e-6 < first
    assert (joint.steps, joint.updates) == (2, {"net": 2})


def test_models_may_be_a_module_dict():
    models = nn.ModuleDict({"a": nn.Linear(4, 1), "b": nn.Linear(4, 1)})
    joint = Joint(models=models, losses=lambda m, x: {"l": (m.a(x) * m["b"](x)).mean()}, optimizers=SGD)
    joint.step(X)
    assert joint.updates == {"a": 1, "b": 1}
    assert joint.models.a is models["a"]


def test_the_losses_function_gets_the_models_by_attribute_and_item():
    joint = pair()
    models = joint.models
    assert isinstance(models, Models)
    assert models.a is models["a"]
    assert list(models) == ["a", "b"]
    assert len(models) == 2
    assert "a" in models
    assert "c" not in models
    assert repr(models) == "Models(a=Linear, b=Linear)"
    with pytest.raises(AttributeError, match=r"There is no model 'c'. Known models: 'a', 'b'."):
        _ = models.c


def test_a_mistyped_model_in_the_losses_function_names_the_nearest():
    joint = Joint(models={"critic": nn.Linear(4, 1)}, losses=lambda m, x: {"l": m.critc(x).mean()}, optimizers=SGD)
    with pytest.raises(AttributeError, match=r"Did you mean 'critic'\?"):
        joint.step(X)


def test_a_phase_as_text():
    assert str(Phase("a")) == "update a"
    text = str(Phase(("a", "b"), every=2, repeat=3, start=1, stop=9))
    assert text == "update a, b, every 2 batches, 3 times a batch, in steps 1 to 8"
    assert str(Phase("a", start=5)) == "update a, in steps 5 to the end"
    assert str(Phase("a", every=5, offset=0)) == "update a, every 5 batches, from the first"
    assert str(Phase("a", every=5, offset=2)) == "update a, every 5 batches, from batch 3"
    assert str(Phase("a", every=5, offset=4)) == str(Phase("a", every=5))


def test_parameter_groups_added_later_are_trained():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 1))
    net[0].requires_grad_(False)
    optimizer = SGD(net[1].parameters(), 0.1)
    joint = Joint(models={"net": net}, losses=lambda m, x: {"l": m.net(x).square().mean()}, optimizers=optimizer)
    joint.step(X)
    before = net[0].weight.clone()
    net[0].requires_grad_(True)
    optimizer.add_param_group({"params": [*net[0].parameters()]})
    joint.step(X)
    assert not net[0].weight.equal(before)


def test_thawing_what_no_optimizer_holds_is_refused():
    net = nn.Sequential(nn.Linear(4, 3).requires_grad_(False), nn.Linear(3, 1))
    joint = Joint(
        models={"net": net},
        losses=lambda m, x: {"l": m.net(x).square().mean()},
        optimizers=SGD(net[1].parameters(), 0.1),
    )
    joint.step(X)
    net[0].requires_grad_(True)
    with pytest.raises(cograd.errors.OptimizerError, match=r"net\.0\.weight \(and 1 more\)"):
        joint.step(X)


@pytest.mark.parametrize("check", ["now", "late", "off"])
def test_the_way_of_checking_does_not_change_the_result(check, picture, same):
    joint, twin = pair(check=check), pair()
    for _ in range(3):
        joint.step(None)
        twin.step(None)
    same(picture(twin), picture(joint))


class Lookahead(Optimizer):
    """Goes half of the way that the optimizer inside goes. Of no framework."""

    def __init__(self, optimizer):
        super().__init__(optimizer.param_groups, {})
        self.optimizer = optimizer
        self.slow = [p.detach().clone() for p in self.own()]

    def own(self):
        return [p for group in self.param_groups for p in group["params"]]

    @torch.no_grad()
    def step(self, closure=None):
        self.optimizer.step()
        for p, slow in zip(self.own(), self.slow, strict=True):
            p.copy_(slow.lerp_(p, 0.5))


def test_an_optimizer_around_another_is_an_optimizer():
    net = nn.Linear(4, 1)
    before = net.weight.detach().clone()
    joint = Joint(
        models={"net": net},
        losses=lambda m, x: {"l": m.net(x).sum()},
        optimizers=Lookahead(SGD(net.parameters(), lr=1.0)),
    )
    joint.step(torch.ones(1, 4))
    torch.testing.assert_close(net.weight, before - 0.5)


@pytest.mark.parametrize("begins", ["before the joint", "after it"])
@pytest.mark.parametrize("size", [1, 4])
def test_several_processes_are_warned_once_that_gradients_are_not_averaged(monkeypatch, size, begins):
    net, running = nn.Linear(4, 1), begins == "before the joint"
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: running)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: size)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        joint = Joint(models={"net": net}, losses=lambda m, x: {"l": m.net(x).mean()}, optimizers=SGD)
        assert len(caught) == (running and size > 1)
        running = True
        for _ in range(3):
            joint.step(torch.ones(2, 4))
        cograd.backward({"l": net(torch.ones(2, 4)).mean()})  # whose gradients may be averaged by hand
    assert [(w.category, w.filename) for w in caught] == ([(UserWarning, __file__)] if size > 1 else [])
    for words in ("one of 4 processes", "does not average gradients", "average .grad yourself"):
        assert all(words in str(w.message) for w in caught)
