"""Each parameter has an optimizer that steps as soon as its gradient is there."""

import torch
from torch import nn

model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
optimizers = {p: torch.optim.SGD([p], lr=0.1) for p in model.parameters()}


def apply(parameter):
    optimizers[parameter].step()
    optimizers[parameter].zero_grad()


for parameter in model.parameters():
    parameter.register_post_accumulate_grad_hook(apply)
for _ in range(8):
    model(torch.randn(8, 4)).pow(2).mean().backward()
print(sum(p.sum().item() for p in model.parameters()))
