"""Two layers that are to take turns."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
lower, upper = nn.Linear(6, 4), nn.Linear(4, 2)
opt_lower, opt_upper = torch.optim.SGD(lower.parameters(), lr=0.1), torch.optim.SGD(upper.parameters(), lr=0.1)
x, y = torch.randn(20, 6), torch.randn(20, 2)

for _ in range(5):
    loss = F.mse_loss(upper(lower(x)), y)
    opt_lower.zero_grad()
    loss.backward()
    opt_lower.step()
    opt_upper.zero_grad()
    loss = F.mse_loss(upper(lower(x)), y)
    loss.backward()
    opt_upper.step()
