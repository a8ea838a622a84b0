"""A network with several branches."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(4, 6)
        self.branches = nn.ModuleList(nn.Linear(6, 1) for _ in range(3))

    def forward(self, x):
        h = torch.relu(self.stem(x))
        return sum(branch(h) for branch in self.branches)


net = Branches()
optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
x, y = torch.randn(36, 4), torch.randn(36, 1)
for _ in range(5):
    optimizer.zero_grad()
    loss = F.mse_loss(net(x), y)
    loss.backward()
    optimizer.step()
