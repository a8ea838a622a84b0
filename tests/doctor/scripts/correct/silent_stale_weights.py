"""Two players with fused optimizers."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
player = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
judge = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))
opt_player = torch.optim.Adam(player.parameters(), lr=1e-3, fused=True)
opt_judge = torch.optim.Adam(judge.parameters(), lr=1e-3, fused=True)
x, truth = torch.randn(16, 4), torch.randn(16, 2)

for _ in range(6):
    move = player(x)
    judge_loss = F.softplus(judge(move.detach())).mean() + F.softplus(-judge(truth)).mean()

    opt_judge.zero_grad()
    judge_loss.backward()
    opt_judge.step()
    player_loss = F.softplus(-judge(move)).mean()
    opt_player.zero_grad()
    player_loss.backward()
    opt_player.step()
