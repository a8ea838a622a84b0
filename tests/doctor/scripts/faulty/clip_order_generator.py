"""Parameters are kept as a generator."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
net = nn.Linear(3, 1)
trainable = net.parameters()
optimizer = torch.optim.SGD(trainable, lr=0.1)
x, y = torch.randn(16, 3), torch.randn(16, 1)

for _ in range(5):
    optimizer.zero_grad()
    F.mse_loss(net(x), y).backward()
    nn.utils.clip_grad_norm_(trainable, 0.5)  # <- here
    optimizer.step()
