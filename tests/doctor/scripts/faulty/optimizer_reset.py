"""An optimizer per epoch."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
net = nn.Linear(5, 2)
x, label = torch.randn(60, 5), torch.randint(0, 2, (60,))
for _ in range(4):
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)  # <- here
    for part, target in zip(x.split(20), label.split(20), strict=True):
        optimizer.zero_grad()
        F.cross_entropy(net(part), target).backward()
        optimizer.step()
