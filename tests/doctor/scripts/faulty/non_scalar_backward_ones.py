"""A loss for each example."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
net = nn.Linear(6, 2)
optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
x, y = torch.randn(20, 6), torch.randint(0, 2, (20,))

for _ in range(5):
    loss = F.cross_entropy(net(x), y, reduction="none") + 0.1 * net.weight.square().sum()
    optimizer.zero_grad()
    loss.backward(torch.ones_like(loss))  # <- here
    optimizer.step()
