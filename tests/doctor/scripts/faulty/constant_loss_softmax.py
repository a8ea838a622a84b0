"""A classifier with a softmax over its only output."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
x = torch.randn(40, 4)
y = (x[:, :1] > 0).float()

for _ in range(6):
    p = F.softmax(net(x), dim=1)  # <- here
    loss = F.binary_cross_entropy(p.clamp(1e-6, 1 - 1e-6), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
