"""Two losses under a gradient scaler."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
net = nn.Linear(4, 2)
optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
x, y = torch.randn(20, 4), torch.randn(20, 2)

for _ in range(5):
    optimizer.zero_grad()
    fit, size = F.mse_loss(net(x), y), net.weight.square().sum()
    scaler.scale(fit).backward()
    scaler.scale(size).backward()
    scaler.step(optimizer)
    scaler.update()
