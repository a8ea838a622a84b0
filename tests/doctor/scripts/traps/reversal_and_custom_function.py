"""A gradient reversal layer, written as a custom Function, in front of a domain classifier."""

import torch
import torch.nn.functional as F
from torch import nn


class Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, scale):
        ctx.scale = scale
        return x.view_as(x) * 1.0

    @staticmethod
    def backward(ctx, grad):
        return -ctx.scale * grad, None


torch.manual_seed(0)
features, label, domain = nn.Linear(5, 8), nn.Linear(8, 3), nn.Linear(8, 2)
parameters = [*features.parameters(), *label.parameters(), *domain.parameters()]
optimizer = torch.optim.SGD(parameters, lr=0.05, momentum=0.9)
x, y, d = torch.randn(30, 5), torch.randint(0, 3, (30,)), torch.randint(0, 2, (30,))
for _ in range(5):
    h = torch.relu(features(x))
    domain_loss = F.cross_entropy(domain(Reverse.apply(h, 0.5)), d)
    loss = F.cross_entropy(label(h), y) + domain_loss
    optimizer.zero_grad(set_to_none=False)
    loss.backward()
    optimizer.step()
