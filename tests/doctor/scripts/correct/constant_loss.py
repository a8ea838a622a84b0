"""A sum of two losses that are put on one scale."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
x, y, label = torch.randn(40, 4), torch.randn(40, 3), torch.randint(0, 3, (40,))

for _ in range(6):
    out = net(x)
    fit, kind = F.mse_loss(out, y), F.cross_entropy(out, label)

    fit = fit / fit.detach()
    kind = kind / kind.detach()
    loss = fit + 0.5 * kind
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
