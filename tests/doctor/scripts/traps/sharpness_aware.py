"""Sharpness-aware minimisation: two backward passes per step, weights moved in between and put back."""

import torch
import torch.nn.functional as F
from torch import nn


class Sharpness(torch.optim.Optimizer):
    def __init__(self, params, base, rho=0.05, **options):
        super().__init__(params, {"rho": rho, **options})
        self.base = base(self.param_groups, **options)
        self.moved = []

    @torch.no_grad()
    def climb(self):
        norm = torch.stack([p.grad.norm() for g in self.param_groups for p in g["params"]]).norm()
        self.moved = [(p, p.grad * 0.05 / norm) for g in self.param_groups for p in g["params"]]
        for p, move in self.moved:
            p.add_(move)

    @torch.no_grad()
    def descend(self):
        for p, move in self.moved:
            p.sub_(move)
        self.base.step()


torch.manual_seed(0)
net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
optimizer = Sharpness(net.parameters(), torch.optim.SGD, lr=0.1)
x, y = torch.randn(20, 4), torch.randint(0, 2, (20,))
for _ in range(5):
    F.cross_entropy(net(x), y).backward()
    optimizer.climb()
    optimizer.zero_grad()
    F.cross_entropy(net(x), y).backward()
    optimizer.descend()
    optimizer.zero_grad()
