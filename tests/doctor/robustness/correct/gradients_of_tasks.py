"""Gradients of single tasks are taken to balance them, and thrown away: by norms, and by projection."""

import torch
import torch.nn.functional as F
from torch import nn

trunk, heads = nn.Linear(6, 8), nn.ModuleList(nn.Linear(8, 1) for _ in range(2))
optimizer = torch.optim.SGD([*trunk.parameters(), *heads.parameters()], lr=0.01)
x, targets = torch.randn(24, 6), torch.randn(2, 24, 1)


def task_losses():
    h = torch.relu(trunk(x))
    return [F.mse_loss(head(h), y) for head, y in zip(heads, targets, strict=True)]


for _ in range(5):  # norms
    first, second = task_losses()
    optimizer.zero_grad()
    first.backward(retain_graph=True)
    norm_first = trunk.weight.grad.norm()
    optimizer.zero_grad()
    second.backward(retain_graph=True)
    norm_second = trunk.weight.grad.data.norm()
    optimizer.zero_grad()
    total = first / norm_first + second / norm_second
    total.backward()
    optimizer.step()

for _ in range(5):  # projections
    rows = []
    for loss in task_losses():
        optimizer.zero_grad()
        loss.backward(retain_graph=True)
        rows.append(trunk.weight.grad.clone())
    dot = (rows[0] * rows[1]).sum()
    if dot < 0:
        rows[0] = rows[0] - dot / rows[1].square().sum() * rows[1]
    trunk.weight.grad.copy_(rows[0] + rows[1])
    optimizer.step()
