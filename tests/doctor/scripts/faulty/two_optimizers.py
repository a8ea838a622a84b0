"""A model with a head that has an optimizer of its own."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(4, 6), nn.Linear(6, 1)

    def forward(self, x):
        return self.head(torch.relu(self.body(x)))


net = Net()
opt_head = torch.optim.Adam(net.head.parameters(), lr=1e-2)
opt_all = torch.optim.Adam(net.parameters(), lr=1e-3)  # <- here
x, y = torch.randn(30, 4), torch.randn(30, 1)
for _ in range(5):
    loss = F.mse_loss(net(x), y)
    opt_all.zero_grad()
    opt_head.zero_grad()
    loss.backward()
    opt_all.step()
    opt_head.step()
