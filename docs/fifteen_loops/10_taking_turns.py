"""Two networks in a row are meant to take turns: first the lower one moves, then the upper one answers."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
lower, upper = nn.Linear(9, 4), nn.Linear(4, 1)
opt_lower = torch.optim.Adam(lower.parameters(), lr=3e-3)
opt_upper = torch.optim.Adam(upper.parameters(), lr=3e-3)
x = torch.randn(32, 9)
y = x[:, :1] * 2

for _ in range(30):
    loss = F.mse_loss(upper(lower(x)), y)

    opt_lower.zero_grad()
    loss.backward(retain_graph=True)
    opt_lower.step()

    opt_upper.zero_grad()
    loss.backward()
    opt_upper.step()
print(f"loss {loss.item():.3f}")
