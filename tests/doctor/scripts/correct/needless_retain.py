"""Two losses of one trunk, each with a backward of its own."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
trunk, left, right = nn.Linear(4, 8), nn.Linear(8, 1), nn.Linear(8, 1)
optimizer = torch.optim.SGD([*trunk.parameters(), *left.parameters(), *right.parameters()], lr=0.1)
x, y, z = torch.randn(24, 4), torch.randn(24, 1), torch.randn(24, 1)

for _ in range(6):
    shared = trunk(x).tanh()
    left_loss, right_loss = F.mse_loss(left(shared), y), F.mse_loss(right(shared), z)
    optimizer.zero_grad()
    left_loss.backward(retain_graph=True)
    right_loss.backward()
    optimizer.step()
