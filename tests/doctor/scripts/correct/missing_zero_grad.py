"""A small regression."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(3, 9), nn.Tanh(), nn.Linear(9, 1))
optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
x = torch.randn(40, 3)
y = x.max(dim=1, keepdim=True).values

for _ in range(7):
    loss = F.mse_loss(net(x), y)
    net.zero_grad()
    loss.backward()
    optimizer.step()
