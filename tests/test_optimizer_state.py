"""The state of an optimizer goes by the names of its parameters, whatever their order, and with all that it holds."""

import copy
import io
from functools import partial

import pytest
import torch
from torch import nn
from torch.optim import LBFGS, SGD, Adam, Optimizer

from cograd import Joint
from cograd.errors import StateError


def saved(joint):
    file = io.BytesIO()
    torch.save(joint.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def models():
    torch.manual_seed(0)
    return {"first": nn.Linear(3, 3), "second": nn.Linear(3, 3)}


def joint(optimizers, own=None):
    own = own or models()
    return Joint(
        models=own,
        losses=lambda m, x: {"fit": (m.second(m.first(x).tanh()) - 3 * x).square().mean()},
        optimizers=optimizers(own),
    )


def batches(n):
    draw = torch.Generator().manual_seed(1)
    return [torch.randn(6, 3, generator=draw) for _ in range(n)]


ADAM = partial(Adam, lr=0.01)
MOMENTUM = partial(SGD, momentum=0.9)


def in_order(*keys, kind=ADAM):
    """An optimizer over the parameters in this order."""
    return lambda own: kind([dict(own[key.split(".")[0]].named_parameters())[key.split(".")[1]] for key in keys])


FORWARD = ("first.weight", "first.bias", "second.weight", "second.bias")
TURNED = ("second.weight", "second.bias", "first.weight", "first.bias")  # of the same shapes, place by place
MIXED = ("second.bias", "first.weight", "first.bias", "second.weight")  # of other shapes


class Base(Optimizer):
    """Sharpness-aware minimization, as it is commonly written: it drives another optimizer over its own groups."""

    def __init__(self, params, base=MOMENTUM, lr=0.1, told=False):
        super().__init__(params, {"lr": lr})
        self.base = base(self.param_groups, lr=lr)
        self.told = told

    @torch.no_grad()
    def step(self, closure=None):
        self.base.step()

    def state_dict(self):
        return {**super().state_dict(), **({"base": self.base.state_dict()} if self.told else {})}

    def load_state_dict(self, state):
        base = state.pop("base", None)
        super().load_state_dict(state)
        if base is not None:
            self.base.load_state_dict(base)


class Counting(Optimizer):
    """Keeps a number of its own beside groups and state, as Prodigy and schedule-free optimizers do."""

    def __init__(self, params, lr=0.1):
        super().__init__(params, {"lr": lr})
        self.count = 0

    @torch.no_grad()
    def step(self, closure=None):
        self.count += 1
        for group in self.param_groups:
            for p in group["params"]:
                p.sub_(p.grad, alpha=group["lr"] / self.count)

    def state_dict(self):
        return {**super().state_dict(), "count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]
        super().load_state_dict({key: value for key, value in state.items() if key != "count"})


@pytest.mark.parametrize("order", [TURNED, MIXED, FORWARD[::-1]])
@pytest.mark.parametrize("kind", [ADAM, MOMENTUM, Base])
def test_each_parameter_keeps_its_own_state_in_another_order(order, kind, same):
    whole = joint(in_order(*FORWARD, kind=kind))
    xs = batches(6)
    for x in xs[:3]:
        whole.step(x)
    resumed = joint(in_order(*order, kind=kind))
    resumed.load_state_dict(saved(whole))
    for x in xs[3:]:
        whole.step(x)
        resumed.step(x)
    for name in whole.models:
        same(whole.models[name].state_dict(), resumed.models[name].state_dict())


def test_groups_and_state_are_by_name():
    a = joint(in_order(*FORWARD))
    a.step(batches(1)[0])
    state = saved(a)["optimizers"]["optimizer"]
    assert state["param_groups"][0]["params"] == list(FORWARD)
    assert set(state["state"]) == set(FORWARD)
    assert state["state"]["first.bias"]["exp_avg"].shape == (3,)


def test_parameters_that_were_given_with_names_keep_them():
    def named(own):
        return Adam([(f"{k}/{key}", p) for k, m in own.items() for key, p in m.named_parameters()], lr=0.01)

    a, b, plain = joint(named), joint(named), joint(in_order(*TURNED))
    a.step(batches(1)[0])
    b.load_state_dict(saved(a))
    assert b.optimizers["optimizer"].param_groups[0]["param_names"][0] == "first/weight"
    plain.load_state_dict(saved(a))
    assert "param_names" not in plain.optimizers["optimizer"].param_groups[0]


def test_a_parameter_in_another_group_is_refused_by_name(picture, same):
    def groups(cut):
        return lambda own: Adam(
            [
                {"params": [p for m in own.values() for p in m.parameters()][i::2], "lr": 0.01 * (i + 1)}
                for i in ((0, 1) if cut else (1, 0))
            ]
        )

    a, b = joint(groups(cut=True)), joint(groups(cut=False))
    a.step(batches(1)[0])
    before = picture(b)
    with pytest.raises(StateError) as caught:
        b.load_state_dict(saved(a))
    assert (
        "group 0 of optimizer 'optimizer' holds 'first.bias', 'second.bias'; in the state, 'first.weight', "
        "'second.weight' instead." in str(caught.value)
    )
    assert "group 1" in str(caught.value)
    same(before, picture(b))


def test_one_state_for_all_parameters_keeps_their_order():
    kind = partial(LBFGS, max_iter=3)
    a = joint(in_order(*FORWARD, kind=kind))
    a.step(batches(1)[0])
    with pytest.raises(StateError, match=r"follows the order .* begins with 'second.weight' where the state has 'firs"):
        joint(in_order(*TURNED, kind=kind)).load_state_dict(saved(a))
    same_order = joint(in_order(*FORWARD, kind=kind))
    same_order.load_state_dict(saved(a))


@pytest.mark.parametrize("kind", [Counting, Base, partial(Base, told=True)], ids=["a number", "inside", "told"])
def test_what_an_optimizer_keeps_beside_its_state_is_kept(kind, same):
    whole = joint(in_order(*FORWARD, kind=kind))
    xs = batches(5)
    for x in xs[:3]:
        whole.step(x)
    resumed = joint(in_order(*FORWARD, kind=kind))
    resumed.load_state_dict(saved(whole))
    for x in xs[3:]:
        whole.step(x)
        resumed.step(x)
    same(whole.state_dict(), resumed.state_dict())


def test_an_extra_entry_that_may_follow_the_order_is_refused_in_another():
    a = joint(in_order(*FORWARD, kind=partial(Base, told=True)))
    a.step(batches(1)[0])
    with pytest.raises(StateError, match="follows the order of its parameters, and that has changed"):
        joint(in_order(*TURNED, kind=partial(Base, told=True))).load_state_dict(saved(a))


def test_a_learning_rate_that_is_set_after_loading_reaches_an_optimizer_inside():
    a, b = joint(in_order(*FORWARD, kind=Base)), joint(in_order(*FORWARD, kind=Base))
    a.step(batches(1)[0])
    b.load_state_dict(saved(a))
    assert b.optimizers["optimizer"].param_groups[0] is b.optimizers["optimizer"].base.param_groups[0]
    b.optimizers["optimizer"].param_groups[0]["lr"] = 0.0
    before = copy.deepcopy(b.models["first"].state_dict())
    b.step(batches(1)[0])
    assert b.models["first"].weight.equal(before["weight"])


def test_a_state_of_another_shape_is_named():
    a, b = joint(in_order(*FORWARD)), joint(in_order(*FORWARD))
    for each in (a, b):
        each.step(batches(1)[0])
    state = saved(a)
    state["optimizers"]["optimizer"]["state"]["first.bias"]["exp_avg"] = torch.zeros(4)
    with pytest.raises(
        StateError, match=r"'exp_avg' of first.bias in optimizer 'optimizer' is \(3,\); in the state \(4,\)"
    ):
        b.load_state_dict(state)


def test_another_optimizer_inside_is_refused():
    a = joint(in_order(*FORWARD, kind=Base))
    state = saved(a)
    state["optimizers"]["optimizer"]["inside"] = {}
    with pytest.raises(StateError, match="optimizer 'optimizer' drives 'base' inside; in the state none"):
        joint(in_order(*FORWARD, kind=Base)).load_state_dict(state)
