"""Half of a network is frozen after some iterations."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
backbone, head = nn.Linear(6, 8), nn.Linear(8, 1)
parameters = [*backbone.parameters(), *head.parameters()]
optimizer = torch.optim.AdamW(parameters, lr=0.01)
x, y = torch.randn(32, 6), torch.randn(32, 1)

for i in range(12):
    if i == 6:
        backbone.requires_grad_(False)
    loss = F.mse_loss(head(backbone(x).relu()), y)
    optimizer.zero_grad(set_to_none=False)
    loss.backward()
    optimizer.step()  # <- here
