"""Modes of the script's own around the loop, left while operations are followed and after."""

import torch
from torch import nn
from torch.overrides import TorchFunctionMode


class Count(TorchFunctionMode):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.calls += 1
        return func(*args, **(kwargs or {}))


def train(model, optimizer, times):
    for _ in range(times):
        loss = model(torch.randn(8, 4)).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


model = nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
with torch.device("cpu"), Count() as short:
    train(model, optimizer, 1)
with Count() as long, torch.device("cpu"):
    train(model, optimizer, 12)
before = long.calls
with torch.device("meta"):
    assert torch.ones(1).is_meta
assert torch.ones(1).device.type == "cpu"
train(model, optimizer, 2)
assert long.calls == before > short.calls > 0
torch.set_default_device("cpu")
train(model, optimizer, 2)
