"""Per-sample gradients with vmap, an inner loop by hand, and parameters without an optimizer."""

import torch
from torch import nn
from torch.func import functional_call, grad, vmap

torch.manual_seed(0)
net = nn.Linear(3, 1)
scale = nn.Parameter(torch.ones(1))
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
x, y = torch.randn(10, 3), torch.randn(10, 1)


def loss_of(weights, x, y):
    return (functional_call(net, weights, (x,)) - y).square().mean()


for _ in range(4):
    weights = {name: p.detach() for name, p in net.named_parameters()}
    norms = vmap(grad(loss_of), (None, 0, 0))(weights, x, y)["weight"].norm(dim=(1, 2))
    fast = dict(net.named_parameters())
    inner = loss_of(fast, x[:5], y[:5])
    slopes = torch.autograd.grad(inner, list(fast.values()), create_graph=True)
    fast = {name: p - 0.1 * g for (name, p), g in zip(fast.items(), slopes, strict=True)}
    outer = loss_of(fast, x[5:], y[5:]) * scale.sum()
    optimizer.zero_grad()
    outer.backward()
    optimizer.step()
    with torch.no_grad():
        scale -= 0.01 * scale.grad
    scale.grad = None
    print(norms.max().item())
