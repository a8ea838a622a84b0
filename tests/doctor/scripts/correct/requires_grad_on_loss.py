"""A loss on decisions."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
net = nn.Linear(4, 3)
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
x, label = torch.randn(16, 4), torch.randint(0, 3, (16,))

for _ in range(5):
    out = net(x)

    loss = F.multi_margin_loss(out, label)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
