"""Two networks, two losses, two steps."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
left, right = nn.Linear(3, 1), nn.Linear(3, 1)
opt_left, opt_right = torch.optim.SGD(left.parameters(), lr=0.1), torch.optim.SGD(right.parameters(), lr=0.1)
x, y = torch.randn(16, 3), torch.randn(16, 1)

for _ in range(5):
    opt_left.zero_grad()
    opt_right.zero_grad()
    F.mse_loss(left(x), y).backward()
    F.l1_loss(right(x), y).backward()
    opt_left.step()
    opt_right.step()
