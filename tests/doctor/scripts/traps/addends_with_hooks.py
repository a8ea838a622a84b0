"""Losses of several addends on whose graphs the script hangs what it would notice if it ran once more."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

torch.manual_seed(4)
trunk = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Tanh())
one, two = nn.Linear(8, 2), nn.Linear(8, 2)
optimizer = torch.optim.SGD([*trunk.parameters(), *one.parameters(), *two.parameters()], lr=0.1)
seen, unpacked, products = 0, 0, 0
kept = torch.zeros(16, 8)


def see(*_):
    global seen
    seen += 1


def unpack(tensor):
    global unpacked
    unpacked += 1
    return tensor


class Counted(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, arrived):
        see()
        return arrived + torch.randn_like(arrived)


class Count(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        global products
        products += "mm" in str(func)
        return func(*args, **(kwargs or {}))


def step(code, label):
    loss = F.cross_entropy(one(code), label) + F.cross_entropy(two(code), 1 - label)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


for _ in range(4):
    x, label = torch.randn(16, 5), torch.randint(0, 2, (16,))
    code = trunk(x)
    code.register_hook(see)
    step(code, label)

    code = trunk(x)
    code.retain_grad()
    step(code, label)
    kept += code.grad

    code = trunk(x)
    code.grad_fn.register_prehook(see)
    step(code, label)

    step(Counted.apply(trunk(x)), label)
    step(checkpoint(trunk, x, use_reentrant=False), label)
    step(checkpoint(trunk, x.requires_grad_(), use_reentrant=True), label)

    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, unpack):
        code = trunk(x)
    step(code, label)

    with Count():
        step(trunk(x), label)

    handle = one.weight.register_hook(see)
    step(trunk(x), label)
    handle.remove()

    handle = trunk.register_full_backward_hook(see)
    step(trunk(x), label)
    handle.remove()
