"""Gradients of micro-batches are to be accumulated."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
net = nn.Linear(6, 3)
optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
x, label = torch.randn(96, 6), torch.randint(0, 3, (96,))

for _ in range(4):
    optimizer.zero_grad()
    for part, target in zip(x.chunk(4), label.chunk(4), strict=True):
        loss = F.cross_entropy(net(part), target) / 4
        loss.backward()
    optimizer.step()
