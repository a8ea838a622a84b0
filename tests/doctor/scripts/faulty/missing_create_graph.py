"""Regression with a penalty on the slope."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1))
optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
y = torch.randn(32, 1)

for _ in range(6):
    x = torch.randn(32, 2, requires_grad=True)
    out = net(x)

    slopes = torch.autograd.grad(out.sum(), x, retain_graph=True)[0]  # <- here
    slope = slopes.square().sum(1).mean()
    loss = F.mse_loss(out, y) + 0.1 * slope
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
