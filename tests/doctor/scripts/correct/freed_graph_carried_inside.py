"""A cell of a class of its own, whose state is carried from chunk to chunk."""

import torch
from torch import nn

torch.manual_seed(0)


class Cell(nn.Module):
    def __init__(self):
        super().__init__()
        self.read, self.keep = nn.Linear(3, 8), nn.Linear(8, 8)

    def forward(self, x, memory):
        kept = self.keep(memory)
        return torch.tanh(self.read(x) + kept)


cell, head = Cell(), nn.Linear(8, 1)
optimizer = torch.optim.Adam([*cell.parameters(), *head.parameters()], lr=1e-2)
memory = torch.zeros(4, 8)

for _ in range(8):
    x = torch.randn(4, 3)

    memory = cell(x, memory.detach())
    loss = (head(memory) - x.sum(1, keepdim=True)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
