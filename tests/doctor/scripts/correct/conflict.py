"""Two heads that read the same feature of a narrow trunk in the same way."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
trunk, near, far = nn.Linear(16, 1), nn.Linear(1, 1), nn.Linear(1, 1)
nn.init.constant_(near.weight, 1.0)
nn.init.constant_(far.weight, 1.0)
optimizer = torch.optim.SGD([*trunk.parameters(), *near.parameters(), *far.parameters()], lr=0.01)

for _ in range(6):
    x = torch.randn(64, 16)
    place = x.sum(1, keepdim=True)
    code = trunk(x)
    near_loss = F.mse_loss(near(code), place)
    far_loss = F.mse_loss(far(code), place)
    loss = near_loss + far_loss
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
