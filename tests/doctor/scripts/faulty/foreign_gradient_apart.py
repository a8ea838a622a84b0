"""A world model, and an actor that is only to use its features."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
world, dynamics, actor = nn.Linear(5, 8), nn.Linear(8, 5), nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2))
opt_world = torch.optim.Adam([*world.parameters(), *dynamics.parameters()], lr=1e-3)
opt_actor = torch.optim.Adam(actor.parameters(), lr=1e-3)

for _ in range(6):
    now = torch.randn(16, 5)
    then, move = now.roll(1, 1), now[:, :2]
    opt_world.zero_grad()
    opt_actor.zero_grad()
    F.mse_loss(dynamics(world(now).relu()), then).backward()
    features = world(now).relu()
    choice = actor(features)  # <- here
    F.mse_loss(choice, move).backward()
    opt_world.step()
    opt_actor.step()
