"""The copy that was meant as a backup is the one that runs."""

import copy

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
first = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 4))
optimizer = torch.optim.Adam(first.parameters(), lr=1e-3)
net = copy.deepcopy(first)  # <- here
x, label = torch.randn(48, 5), torch.randint(0, 4, (48,))
for _ in range(5):
    loss = F.cross_entropy(net(x), label)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
