"""A weight for each example, a gradient of ones for a loss of one element, and the sensitivity of each output."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
net = nn.Linear(6, 2)
optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
x, y = torch.randn(20, 6), torch.randint(0, 2, (20,))

for _ in range(5):
    loss = F.cross_entropy(net(x), y, reduction="none")
    optimizer.zero_grad()
    loss.backward(torch.full_like(loss, 1 / 20))
    optimizer.step()
    mean = F.cross_entropy(net(x), y)
    optimizer.zero_grad()
    mean.backward(torch.ones_like(mean))
    optimizer.step()

seen = x.clone().requires_grad_()
strongest = net(seen).max(1).values
strongest.backward(torch.ones_like(strongest))
print(seen.grad.abs().mean())
