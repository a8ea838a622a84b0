"""A summary of the sensor readings becomes part of the input of a second network."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
summary = nn.Linear(11, 3)
forecast = nn.Linear(3 + 4, 1)
optimizer = torch.optim.AdamW([*summary.parameters(), *forecast.parameters()], lr=5e-3)
readings, calendar = torch.randn(30, 11), torch.randn(30, 4)
load = readings[:, :1] + 0.5 * calendar[:, :1]

for _ in range(25):
    known = torch.cat([summary(readings), calendar], dim=1)
    loss = F.mse_loss(forecast(known), load)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(f"loss {loss.item():.3f}")
