"""A compiled module."""

import torch
from torch import nn

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
fast = torch.compile(net, backend="eager")
optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
x, y = torch.randn(16, 4), torch.randn(16, 1)
for _ in range(4):
    loss = (fast(x) - y).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
