"""Losses are gathered in a new tensor."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
net = nn.Linear(4, 2)
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
x, y = torch.randn(16, 4), torch.randn(16, 2)

for _ in range(5):
    out = net(x)
    parts = [F.mse_loss(out, y), F.l1_loss(out, y)]
    loss = torch.tensor(parts, requires_grad=True).sum()  # <- here
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
