"""A price in euros and a colour, from one trunk."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
trunk, price, colour = nn.Sequential(nn.Linear(6, 16), nn.ReLU()), nn.Linear(16, 1), nn.Linear(16, 3)
optimizer = torch.optim.Adam([*trunk.parameters(), *price.parameters(), *colour.parameters()], lr=1e-3)
x = torch.randn(64, 6)
euros, shade = 5 + x[:, :1], x[:, 1:4].argmax(1)

for _ in range(6):
    code = trunk(x)
    price_loss = F.l1_loss(price(code), euros)
    colour_loss = F.cross_entropy(colour(code), shade)
    optimizer.zero_grad()
    (price_loss + colour_loss).backward()
    optimizer.step()
