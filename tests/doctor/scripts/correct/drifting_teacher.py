"""A small network learns from a large one that stays as it is."""

import torch
import torch.nn.functional as F
from torch import nn


class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, width), nn.BatchNorm1d(width), nn.ReLU())
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        return self.head(self.body(x))


torch.manual_seed(0)
teacher, student = Net(16), Net(4)
teacher.requires_grad_(False).eval()
optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
x = torch.randn(32, 6)

for _ in range(6):
    wanted = teacher(x).softmax(1)
    loss = F.kl_div(student(x).log_softmax(1), wanted, reduction="batchmean")
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
