"""An auxiliary loss that is computed under no_grad."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
net, side = nn.Linear(5, 5), nn.Linear(5, 2)
optimizer = torch.optim.Adam([*net.parameters(), *side.parameters()], lr=1e-2)
x, y, label = torch.randn(50, 5), torch.randn(50, 5), torch.randint(0, 2, (50,))

for _ in range(6):
    h = net(x)

    with torch.no_grad():
        scale = h.std()
    extra = F.cross_entropy(side(h) / scale, label)
    loss = F.mse_loss(h, y) + extra
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
