"""A recurrent cell whose state is carried from chunk to chunk."""

import torch
from torch import nn

torch.manual_seed(0)
cell, head = nn.GRUCell(3, 8), nn.Linear(8, 1)
optimizer = torch.optim.Adam([*cell.parameters(), *head.parameters()], lr=1e-2)
state = torch.zeros(4, 8)

for _ in range(8):
    x = torch.randn(4, 3)

    state = cell(x, state.detach())
    loss = (head(state) - x.sum(1, keepdim=True)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
