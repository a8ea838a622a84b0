"""A regression on one column."""

import torch
from torch import nn

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1))
optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
x = torch.randn(60, 3)
target = x.sum(dim=1)

for _ in range(5):
    prediction = net(x)

    error = prediction - target  # <- here
    loss = error.abs().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
