"""Two losses that are differentiated one after the other and stepped together."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
body = nn.Sequential(nn.Linear(6, 16), nn.Tanh())
left, right = nn.Linear(16, 2), nn.Linear(16, 2)
optimizer = torch.optim.SGD([*body.parameters(), *left.parameters(), *right.parameters()], lr=0.01)

for _ in range(6):
    x = torch.randn(32, 6)
    optimizer.zero_grad()
    left_loss = F.mse_loss(left(body(x)), x[:, :2])
    left_loss.backward()
    right_loss = F.mse_loss(right(body(x)), x[:, 2:4])
    (1e-4 * right_loss).backward()  # <- here
    optimizer.step()
