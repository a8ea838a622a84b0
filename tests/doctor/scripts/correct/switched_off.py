"""Two adapters on one base, both of which one loss uses."""

import torch
from torch import nn

torch.manual_seed(0)


class Adapted(nn.Module):
    def __init__(self):
        super().__init__()
        self.base = nn.Linear(3, 3).requires_grad_(False)
        self.adapters = nn.ModuleDict({"first": nn.Linear(3, 3), "second": nn.Linear(3, 3)})
        self.active = "first"

    def use(self, name):
        self.active = name

    def forward(self, x):
        return self.base(x) + self.adapters[self.active](x)


net = Adapted()
optimizer = torch.optim.Adam(net.adapters.parameters())
x, y = torch.randn(16, 3), torch.randn(16, 3)
for _ in range(6):
    net.use("first")
    one = net(x)
    net.use("second")
    loss = (one + net(x) - y).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
