"""A metric-learning loss with learned class centres."""

import torch
from torch import nn

torch.manual_seed(0)


class Centres(nn.Module):
    def __init__(self):
        super().__init__()
        self.points = nn.Parameter(torch.randn(3, 4))

    def forward(self, z, label):
        return (z - self.points[label]).square().sum(1).mean()


net, centres = nn.Linear(6, 4), Centres()
optimizer = torch.optim.SGD(net.parameters(), lr=0.01)  # <- here
x, label = torch.randn(45, 6), torch.arange(45) % 3
for _ in range(5):
    optimizer.zero_grad()
    loss = centres(net(x), label)
    loss.backward()
    optimizer.step()
