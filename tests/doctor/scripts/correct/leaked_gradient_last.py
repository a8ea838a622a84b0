"""Two adversaries whose steps both come last."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
maker, judge = nn.Linear(4, 2), nn.Sequential(nn.Linear(2, 6), nn.ReLU(), nn.Linear(6, 1))
opt_maker, opt_judge = torch.optim.Adam(maker.parameters()), torch.optim.Adam(judge.parameters())
x, real = torch.randn(16, 4), torch.randn(16, 2)

for _ in range(5):
    made = maker(x)
    judge_loss = F.softplus(judge(made.detach())).mean() + F.softplus(-judge(real)).mean()
    maker_loss = F.softplus(-judge(made)).mean()
    opt_judge.zero_grad()
    opt_maker.zero_grad()
    judge_loss.backward()
    maker_loss.backward(inputs=list(maker.parameters()))
    opt_judge.step()
    opt_maker.step()
