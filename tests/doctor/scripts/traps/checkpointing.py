"""Activation checkpointing of both kinds."""

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

torch.manual_seed(0)
first = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(0.1))
second, head = nn.Sequential(nn.Linear(8, 8), nn.Tanh()), nn.Linear(8, 1)
parameters = [*first.parameters(), *second.parameters(), *head.parameters()]
optimizer = torch.optim.Adam(parameters, lr=1e-2)
x, y = torch.randn(16, 4), torch.randn(16, 1)
for _ in range(5):
    h = checkpoint(first, x, use_reentrant=False)
    h = checkpoint(second, h, use_reentrant=True)
    loss = (head(h) - y).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
