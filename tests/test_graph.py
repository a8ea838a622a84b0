"""What the walk says about a graph is what autograd does with it."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.checkpoint import checkpoint

from cograd._graph import leads, walk


def grouped(*modules):
    return {id(p): i for i, module in enumerate(modules) for p in module.parameters()}


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_reach_is_where_gradients_arrive(data):
    """Random graphs of three models: sums, products, cuts, second derivatives."""
    torch.manual_seed(0)
    models = [nn.Linear(2, 2) for _ in range(3)]
    values = [torch.randn(3, 2)]
    for _ in range(data.draw(st.integers(1, 6))):
        a, b = (data.draw(st.sampled_from(values)) for _ in range(2))
        how = data.draw(st.sampled_from(["model", "sum", "product", "cut", "slope"]))
        if how == "model":
            values.append(data.draw(st.sampled_from(models))(a).tanh())
        elif how == "cut":
            values.append(a.detach())
        elif how == "slope":
            x = a if a.requires_grad else a.clone().requires_grad_(True)
            model = data.draw(st.sampled_from(models))
            values.append(torch.autograd.grad(model(x).square().sum(), x, create_graph=True)[0])
        else:
            values.append(a + b if how == "sum" else a * b)
    losses = [v.square().mean() for v in values if v.requires_grad]
    found = walk(losses, grouped(*models))
    for k, loss in enumerate(losses):
        arrived = [
            any(
                g is not None
                for g in torch.autograd.grad(loss, list(m.parameters()), retain_graph=True, allow_unused=True)
            )
            for m in models
        ]
        assert [bool(found.reach(k) >> i & 1) for i in range(3)] == arrived
        for i, there in enumerate(arrived):
            if there:
                assert leads(loss, found.path(k, i), i, grouped(*models))


def test_a_path_does_not_lead_where_it_led_before():
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    x, groups = torch.randn(3, 2), grouped(first, second)
    path = walk([second(first(x)).sum()], groups).path(0, 0)
    assert leads(second(first(x)).sum(), path, 0, groups)
    assert not leads(second(first(x).detach()).sum(), path, 0, groups)
    assert not leads(first(second(x)).sum(), path, 0, groups)
    assert not leads(second(x).sum(), path, 0, groups)


def test_executed_operations_are_those_that_run():
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    hidden = first(torch.randn(3, 2)).tanh()
    losses = [second(hidden).sum(), (hidden * second(hidden).exp()).sum()]
    found = walk(losses, grouped(first, second))
    ran = set()
    for node in found.groups:
        node.register_hook(lambda given, received, node=node: ran.add(node))
    for k, loss in enumerate(losses):
        for groups, modules in [(0b01, [first]), (0b10, [second]), (0b11, [first, second])]:
            ran.clear()
            loss.backward(inputs=[p for module in modules for p in module.parameters()], retain_graph=True)
            operations = {node for node in ran if node.next_functions}
            assert set(found.executed([k], groups)) == operations


def test_a_loss_that_is_a_parameter_reaches_it():
    scale = nn.Parameter(torch.tensor(2.0))
    assert walk([scale], {id(scale): 0}).reach(0) == 0b1


def test_strays_are_trainable_parameters_of_no_group():
    mine, other, frozen = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2).requires_grad_(False)
    x = torch.randn(3, 2, requires_grad=True)
    found = walk([frozen(other(mine(x))).sum()], grouped(mine))
    assert {id(p) for p in found.strays(grouped(mine))} == {id(p) for p in other.parameters()}


def test_parameters_inside_a_checkpoint_are_found():
    net = nn.Linear(2, 2)
    loss = checkpoint(net, torch.randn(3, 2), use_reentrant=False).sum()
    assert walk([loss], grouped(net)).reach(0) == 0b1


def test_a_deep_graph_does_not_exhaust_the_stack():
    net = nn.Linear(1, 1)
    y = net(torch.ones(1, 1))
    for _ in range(5000):
        y = y + 1
    found = walk([y.sum()], grouped(net))
    assert found.reach(0) == 0b1
    assert leads(y.sum(), found.path(0, 0), 0, grouped(net))
