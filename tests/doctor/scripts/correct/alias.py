"""A target network for temporal differences."""

import copy

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
online = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
target = copy.deepcopy(online)
optimizer = torch.optim.Adam(online.parameters(), lr=1e-3)
s, a, r = torch.randn(40, 4), torch.randint(0, 2, (40, 1)), torch.randn(40)

for step in range(6):
    with torch.no_grad():
        goal = r + 0.9 * target(s.roll(1, 0)).max(1).values
    loss = F.mse_loss(online(s).gather(1, a).squeeze(1), goal)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 3 == 0:
        target.load_state_dict(online.state_dict())
