"""A game of two networks that compute everything anew."""

import torch
from torch import nn

torch.manual_seed(0)
maker, judge = nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
opt_maker, opt_judge = torch.optim.Adam(maker.parameters()), torch.optim.Adam(judge.parameters())
x, real = torch.randn(24, 4), torch.randn(24, 4)

for _ in range(6):
    judge_loss = judge(maker(x).detach()).mean() - judge(real).mean()
    opt_judge.zero_grad()
    judge_loss.backward(retain_graph=True)  # <- here
    opt_judge.step()
    maker_loss = -judge(maker(x)).mean()
    opt_maker.zero_grad()
    maker_loss.backward()
    opt_maker.step()
