"""Blocks of a class of their own, kept in a list."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.body = nn.Linear(width, width)

    def forward(self, x):
        return x + torch.relu(self.body(x))


class Tower(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(4, 6)
        self.blocks = []
        for _ in range(3):
            self.blocks.append(Block(6))  # <- here

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return x


def main():
    net = Tower()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    x, y = torch.randn(36, 4), torch.randn(36, 6)
    for _ in range(5):
        optimizer.zero_grad()
        loss = F.mse_loss(net(x), y)
        loss.backward()
        optimizer.step()


main()
