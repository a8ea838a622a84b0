"""Gradients are cleared at the wrong end."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
net = nn.Linear(6, 3)
optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
x, label = torch.randn(96, 6), torch.randint(0, 3, (96,))

for _ in range(4):
    loss = F.cross_entropy(net(x), label)

    loss.backward()
    optimizer.zero_grad()  # <- here
    optimizer.step()
