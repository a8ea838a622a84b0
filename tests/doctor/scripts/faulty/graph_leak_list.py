"""Losses are collected for a plot."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
net = nn.Linear(5, 1)
optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
x, y = torch.randn(70, 5), torch.randn(70, 1)
history = []

for _ in range(8):
    loss = F.smooth_l1_loss(net(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    history.append(loss)  # <- here
print(sum(history) / len(history))
