"""Optimizers whose step needs its closure, or gradients with a graph: found, declared, and as in loops by hand."""

import copy

import pytest
import torch
from torch import nn
from torch.optim import LBFGS, SGD, Adam, Optimizer

from cograd import Fp16, Joint, Phase, alternate
from cograd._optimizer_needs import needs_closure, needs_graph
from cograd.errors import OptimizerError, PartialStepError, UnreachedError, WeightingError
from cograd.weighting import FirstValue, PCGrad


class Sharp(Optimizer):
    """Sharpness-aware minimization as in davda54/sam: it begins with the gradients that are there."""

    def __init__(self, params, base=SGD, rho=0.05, **kwargs):
        super().__init__(params, {"rho": rho, **kwargs})
        self.base_optimizer = base(self.param_groups, **kwargs)
        self.param_groups = self.base_optimizer.param_groups

    @torch.no_grad()
    def first_step(self, zero_grad=False):
        every = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.stack([p.grad.norm(p=2) for p in every]).norm(p=2)
        for group in self.param_groups:
            scale = group["rho"] / (norm + 1e-12)
            for p in group["params"]:
                if p.grad is not None:
                    self.state[p]["old_p"] = p.data.clone()
                    p.add_(p.grad * scale.to(p))
        if zero_grad:
            self.zero_grad()

    @torch.no_grad()
    def second_step(self, zero_grad=False):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.data = self.state[p]["old_p"]
        self.base_optimizer.step()
        if zero_grad:
            self.zero_grad()

    @torch.no_grad()
    def step(self, closure=None):
        assert closure is not None, "Sharpness Aware Minimization requires closure, but it was not provided"
        closure = torch.enable_grad()(closure)
        self.first_step(zero_grad=True)
        closure()
        self.second_step()

    def load_state_dict(self, state_dict):
        super().load_state_dict(state_dict)
        self.base_optimizer.param_groups = self.param_groups


class SharpFromClosure(Sharp):
    """The other common form: it begins with the closure."""

    @torch.no_grad()
    def step(self, closure=None):
        if closure is None:
            raise RuntimeError("step needs a closure")
        with torch.enable_grad():
            loss = closure()
        self.first_step()
        with torch.enable_grad():
            closure()
        self.second_step()
        return loss


class Hessian(Optimizer):
    """AdaHessian in short: Hutchinson's estimate of the diagonal, from gradients with a graph."""

    def __init__(self, params, lr=0.1):
        super().__init__(params, {"lr": lr})

    def diagonal(self, params):
        if any(p.grad.grad_fn is None for p in params):
            raise RuntimeError("Gradients have no grad_fn: call backward(create_graph=True)")
        signs = [torch.ones_like(p) for p in params]
        return torch.autograd.grad([p.grad for p in params], params, signs)

    def step(self, closure=None):
        loss = None
        if closure is not None:
            loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            found = self.diagonal(params)
            with torch.no_grad():
                for p, h in zip(params, found, strict=True):
                    p.sub_(group["lr"] * p.grad / (h.abs() + 1))
        return loss


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Dropout(0.2), nn.Linear(5, 2))


def losses(m, x):
    out = m["net"](x)
    return {"one": (out - 1).square().mean(), "size": out.square().mean()}


def batches(n):
    draw = torch.Generator().manual_seed(1)
    return [torch.randn(8, 3, generator=draw) for _ in range(n)]


def joint_of(kind, model=None, **options):
    model = model or net()
    return Joint(
        models={"net": model}, losses=losses, optimizers=kind(model.parameters()), weights={"size": 0.5}, **options
    )


def objective(model, x):
    found = losses({"net": model}, x)
    return torch.autograd.backward([found["one"], found["size"]], [None, torch.tensor(0.5)])


# -- as by hand ------------------------------------------------------------------------------------------------------


def sharp_with_momentum(params):
    return Sharp(params, lr=0.1, momentum=0.9)


def adaptive(params):
    return SharpFromClosure(params, base=Adam, lr=0.05)


@pytest.mark.parametrize("stop", [None, 2])
@pytest.mark.parametrize("kind", [sharp_with_momentum, adaptive])
def test_sam_is_as_in_a_loop_by_hand(kind, stop, same):
    xs = batches(5)
    hand = net()
    optimizer = kind(hand.parameters())
    torch.manual_seed(2)
    for x in xs:

        def closure(x=x):
            optimizer.zero_grad()
            objective(hand, x)

        if kind is sharp_with_momentum:
            objective(hand, x)
        optimizer.step(closure)
        optimizer.zero_grad()

    joint = joint_of(kind)
    torch.manual_seed(2)
    for x in xs[:stop]:
        joint.step(x)
    if stop:
        state, random = copy.deepcopy(joint.state_dict()), torch.get_rng_state()
        joint = joint_of(kind)
        joint.load_state_dict(state)
        torch.set_rng_state(random)
        for x in xs[stop:]:
            joint.step(x)
    same(hand.state_dict(), joint.models["net"].state_dict())
    assert joint.updates == {"net": 5}


def test_sam_reports_the_losses_where_it_began(same):
    joint, plain = joint_of(sharp_with_momentum), joint_of(lambda ps: SGD(ps, lr=0.1))
    x = batches(1)[0]
    reports = []
    for each in (joint, plain):
        torch.manual_seed(3)
        reports.append(each.step(x))
    same(reports[0].losses, reports[1].losses)
    assert reports[0].phases[0].stepped == ("optimizer",)


def test_sam_beside_another_optimizer_in_its_own_phase(same):
    def build():
        torch.manual_seed(0)
        return {"net": nn.Linear(3, 2), "head": nn.Linear(2, 1)}

    def size(m, x):
        return {"size": (m["head"](m["net"](x).tanh()) - 1).square().mean()}

    hand = build()
    sharp, plain = Sharp(hand["net"].parameters(), lr=0.1), SGD(hand["head"].parameters(), lr=0.1)
    own = build()
    joint = Joint(
        models=own,
        losses=size,
        optimizers={"net": Sharp(own["net"].parameters(), lr=0.1), "*": lambda ps: SGD(ps, lr=0.1)},
        phases=alternate("net", "head"),
    )
    for x in batches(3):

        def closure(x=x):
            for model in hand.values():
                model.zero_grad()
            size(hand, x)["size"].backward()

        closure()
        sharp.step(closure)
        closure()
        plain.step()
        joint.step(x)
    for name, model in hand.items():
        same(model.state_dict(), own[name].state_dict())


def test_a_batch_without_losses_steps_nothing():
    model = net()
    joint = Joint(
        models={"net": model},
        losses=lambda m, x: {"size": None if x is None else m.net(x).square().mean()},
        optimizers=Sharp(model.parameters(), lr=0.1),
    )
    before = copy.deepcopy(model.state_dict())
    report = joint.step(None)
    assert report.phases[0].stepped == ()
    assert joint.updates == {"net": 0}
    assert all(value.equal(before[key]) for key, value in model.state_dict().items())


def test_an_error_before_it_steps_leaves_everything_as_it_was(picture, same):
    model = net()
    joint = Joint(
        models={"net": model},
        losses=lambda m, x: {"size": m.net(x).detach().square().mean()},
        trains={"size": "net"},
        optimizers=Sharp(model.parameters(), lr=0.1),
    )
    before = picture(joint)
    with pytest.raises((UnreachedError, ValueError), match="size"):
        joint.step(batches(1)[0])
    same(before, picture(joint))


@pytest.mark.parametrize("stop", [None, 2])
def test_gradients_with_a_graph_are_as_in_a_loop_by_hand(stop, same):
    xs = batches(4)
    hand = net()
    optimizer = Hessian(hand.parameters())
    torch.manual_seed(2)
    for x in xs:
        found = losses({"net": hand}, x)
        sums = [found["one"], found["size"]]
        weights = [torch.ones(()), torch.tensor(0.5)]
        grads = torch.autograd.grad(sums, list(hand.parameters()), weights, create_graph=True)
        for p, g in zip(hand.parameters(), grads, strict=True):
            p.grad = g
        optimizer.step()
        optimizer.zero_grad()
    joint = joint_of(Hessian, grad_norms=True)
    torch.manual_seed(2)
    for x in xs[:stop]:
        report = joint.step(x)
    if stop:
        state, random = copy.deepcopy(joint.state_dict()), torch.get_rng_state()
        joint = joint_of(Hessian, grad_norms=True)
        joint.load_state_dict(state)
        torch.set_rng_state(random)
        for x in xs[stop:]:
            report = joint.step(x)
    same(hand.state_dict(), joint.models["net"].state_dict())
    assert not report.grad_norms["net"].requires_grad
    assert all(p.grad is None for p in joint.models["net"].parameters())


def test_the_warning_of_torch_about_graphs_is_left_as_it_was():
    joint_of(Hessian).step(batches(1)[0])  # warnings are errors here
    assert not torch.is_warn_always_enabled()


# -- found -----------------------------------------------------------------------------------------------------------


def plain(self, closure=None):
    loss = None
    if closure is not None:
        with torch.enable_grad():
            loss = closure()
    return loss


def briefly(self, closure=None):
    return closure() if closure is not None else None


def lazily(self, closure=None):
    return closure and closure()


def otherwise(self, closure=None):
    if closure is None:
        return None
    return closure()


def replaced(self, closure=None):
    if closure is None:
        closure = lambda: None  # noqa: E731
    return closure()


def chosen(self, closure=None):
    closure = closure or (lambda: None)
    return closure()


def looped(self, closure=None):
    while closure is not None:
        return closure()
    return None


def refused(self, closure=None):
    if closure is not None:
        raise NotImplementedError("no closure")


def denied(self, closure=None):
    assert closure is None


def passed_on(self, closure=None):
    return self.inner.step(closure)


def asserted(self, closure=None):
    assert closure is not None


def raised(self, closure=None):
    if closure is None:
        raise RuntimeError("a closure")


def negated(self, closure=None):
    if not closure:
        raise RuntimeError("a closure")


def in_the_else(self, closure=None):
    if callable(closure):
        self.known = True
    else:
        raise RuntimeError("a closure")


def called(self, closure=None):
    with torch.enable_grad():
        for _ in range(2):
            loss = 1 * closure()
    return loss


def tried(self, closure=None):
    try:
        return float(closure())
    finally:
        self.done = True


def made_of(step):
    return type("Made", (SGD,), {"step": step})([torch.zeros(1, requires_grad=True)], lr=0.1)


@pytest.mark.parametrize(
    "step", [plain, briefly, lazily, otherwise, replaced, chosen, looped, refused, denied, passed_on]
)
def test_a_closure_that_may_be_left_out_is_not_needed(step):
    assert not needs_closure(made_of(step))


@pytest.mark.parametrize("step", [asserted, raised, negated, in_the_else, called, tried])
def test_a_closure_that_is_demanded_or_called_is_needed(step):
    assert needs_closure(made_of(step))
    assert needs_closure(made_of(torch.no_grad()(step)))


def test_only_lbfgs_of_torch_needs_anything():
    kinds = [k for k in vars(torch.optim).values() if isinstance(k, type) and issubclass(k, Optimizer)]
    made = [kind([torch.zeros(2, 2, requires_grad=True)]) for kind in kinds if kind is not Optimizer]
    assert [type(o) for o in made if needs_closure(o) or needs_graph(o)] == [LBFGS]
    assert len(made) > 12


def optional(self, closure=None):
    return LBFGS.step(self, closure)


def whatever(self, *args, **kwargs):
    return LBFGS.step(self, *args, **kwargs)


@pytest.mark.parametrize("step", [optional, whatever])
def test_what_overrides_the_step_of_lbfgs_needs_its_closure_too(step, same):
    one, other = net(), net()
    for kind, model in ((type("Made", (LBFGS,), {"step": step}), one), (LBFGS, other)):
        torch.manual_seed(1)
        joint_of(kind, model).step(batches(1)[0])
    same(one.state_dict(), other.state_dict())


@pytest.mark.parametrize("kind", [Sharp, Hessian])
def test_a_refusal_by_the_source_says_how_to_overrule_it(kind):
    way = {Sharp: r"Sharp\.needs_closure = False", Hessian: r"Hessian\.needs_graph = False"}[kind]
    with pytest.raises(OptimizerError, match=way):
        two(kind)
    with pytest.raises(OptimizerError) as caught:
        two(lambda ps, lr: LBFGS(ps))
    assert "needs_closure" not in str(caught.value)


def test_a_scheduler_on_the_step_does_not_hide_it():
    optimizer = Sharp(net().parameters(), lr=0.1)
    torch.optim.lr_scheduler.StepLR(optimizer, 1)
    assert needs_closure(optimizer)
    assert needs_graph(Hessian(net().parameters()))
    assert not needs_graph(optimizer)


def test_a_declaration_decides():
    optimizer = made_of(passed_on)
    optimizer.needs_closure = True
    optimizer.needs_graph = True
    assert needs_closure(optimizer)
    assert needs_graph(optimizer)
    sharp = Sharp(net().parameters(), lr=0.1)
    sharp.needs_closure = False
    assert not needs_closure(sharp)


@pytest.mark.parametrize(
    ("kind", "advice"),
    [(Sharp, "declare it: Hidden.needs_closure = True"), (Hessian, "declare it: Hidden.needs_graph = True")],
)
def test_what_was_not_found_and_fails_says_what_to_declare(kind, advice):
    class Hidden(kind):
        def step(self, closure=None):
            return getattr(super(), "st" + "ep")(closure)

    model = net()
    make = Hidden(model.parameters(), lr=0.1)
    with pytest.raises(PartialStepError, match=advice):
        joint_of(lambda ps: make, model).step(batches(1)[0])
    Hidden.needs_closure, Hidden.needs_graph = kind is Sharp, kind is Hessian
    model = net()
    joint = joint_of(lambda ps: Hidden(ps, lr=0.1), model)
    joint.step(batches(1)[0])
    assert joint.updates == {"net": 1}


# -- refused ---------------------------------------------------------------------------------------------------------


def two(kind, **options):
    models = {"net": net(), "head": nn.Linear(2, 1)}
    return Joint(
        models=models,
        losses=lambda m, x: {"size": m.head(m.net(x)).square().mean(), "also": m.net(x).square().mean()},
        optimizers={"net": kind(models["net"].parameters(), lr=0.1), "*": lambda ps: SGD(ps, lr=0.1)},
        **options,
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "optimizer 'net' {what}, so it cannot share the phase 'update net, head' with 'head'"),
        ({"accumulate": {"net": 2}}, "which cannot be done with accumulate for 'net'"),
        ({"clip": 1.0}, "which cannot be done with clip for 'net'"),
        ({"precision": Fp16()}, "which cannot be done with precision='fp16'"),
    ],
)
@pytest.mark.parametrize(
    ("kind", "what"), [(Sharp, "evaluates the losses itself"), (Hessian, "differentiates the gradients")]
)
def test_it_needs_a_phase_for_itself_without_options(kind, what, options, message):
    phases = alternate("net", "head") if options else None
    with pytest.raises(OptimizerError, match=message.format(what=what)):
        two(kind, phases=phases, **options)


def test_a_graph_and_a_rule_over_gradients():
    with pytest.raises(WeightingError, match="'net' differentiates the gradients, and those that the rule PCGrad"):
        two(Hessian, phases=[Phase("net", weighting=PCGrad()), Phase("head")])
    two(Hessian, phases=[Phase("net", weighting=FirstValue()), Phase("head")])


def test_a_closure_over_a_part_of_its_parameters():
    models = {"net": net(), "head": nn.Linear(2, 1)}
    optimizer = Sharp([p for model in models.values() for p in model.parameters()], lr=0.1)
    with pytest.raises(OptimizerError, match="'update net' must update all of its models, and no other phase"):
        Joint(
            models=models,
            losses=lambda m, x: {"size": m.head(m.net(x)).square().mean()},
            optimizers=optimizer,
            phases=alternate("net", "head"),
        )


def test_both_at_once():
    model = net()
    optimizer = Sharp(model.parameters(), lr=0.1)
    optimizer.needs_graph = True
    with pytest.raises(OptimizerError, match=r"both evaluates the losses itself and differ.*create_graph=True"):
        joint_of(lambda ps: optimizer, model)
