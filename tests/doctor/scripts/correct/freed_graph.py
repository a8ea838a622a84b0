"""Two heads on one trunk, differentiated one after the other."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
trunk, left, right = nn.Linear(5, 7), nn.Linear(7, 1), nn.Linear(7, 2)
optimizer = torch.optim.SGD([*trunk.parameters(), *left.parameters(), *right.parameters()], lr=0.05)
x, a, b = torch.randn(24, 5), torch.randn(24, 1), torch.randn(24, 2)

for _ in range(5):
    h = torch.sigmoid(trunk(x))
    loss_left, loss_right = F.l1_loss(left(h), a), F.mse_loss(right(h), b)
    optimizer.zero_grad()

    (loss_left + loss_right).backward()
    optimizer.step()
