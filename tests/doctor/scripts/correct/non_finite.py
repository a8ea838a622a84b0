"""A loss with a logarithm."""

import torch
from torch import nn

torch.manual_seed(0)
net = nn.Linear(4, 2)
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
x = torch.randn(20, 4)

for _ in range(5):
    share = torch.relu(net(x))
    loss = -torch.log(share + 1e-3).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
