"""An encoder whose codes are compared with targets along two paths."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
encoder, head = nn.Linear(6, 4), nn.Linear(4, 2)
opt_encoder, opt_head = torch.optim.SGD(encoder.parameters(), lr=0.1), torch.optim.SGD(head.parameters(), lr=0.1)
x, y = torch.randn(20, 6), torch.randn(20, 2)

for _ in range(5):
    code = encoder(x)
    first = torch.relu(code).detach()  # <- here
    second = code.data.square()
    loss = F.mse_loss(head(first + second), y)
    opt_encoder.zero_grad()
    opt_head.zero_grad()
    loss.backward()
    opt_encoder.step()
    opt_head.step()
