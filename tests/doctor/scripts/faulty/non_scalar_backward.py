"""A triplet loss with a regulariser."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 4))
optimizer = torch.optim.Adam(net.parameters())
anchor, near, far = torch.randn(3, 20, 6)

for _ in range(4):
    a, p, n = net(anchor), net(near), net(far)
    triplet = F.triplet_margin_loss(a, p, n)

    size = a.square().sum(1)  # <- here
    loss = triplet + 0.01 * size
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
