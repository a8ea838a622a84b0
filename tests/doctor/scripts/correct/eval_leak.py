"""Training with a look at held-out data."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.Linear(8, 1))
optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
x, y = torch.randn(40, 4), torch.randn(40, 1)

for _ in range(5):
    net.train()
    F.mse_loss(net(x[:30]), y[:30]).backward()
    optimizer.step()
    optimizer.zero_grad()
    net.eval()
    with torch.no_grad():
        held_out = F.mse_loss(net(x[30:]), y[30:])
    print(held_out.item())
