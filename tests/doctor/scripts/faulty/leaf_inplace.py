"""A moving average of weights."""

import copy

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
net = nn.Linear(4, 1)
average = copy.deepcopy(net)
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
x, y = torch.randn(16, 4), torch.randn(16, 1)

for _ in range(5):
    optimizer.zero_grad()
    F.mse_loss(net(x), y).backward()
    optimizer.step()
    for slow, fast in zip(average.parameters(), net.parameters(), strict=True):
        slow.mul_(0.9).add_(fast, alpha=0.1)  # <- here
