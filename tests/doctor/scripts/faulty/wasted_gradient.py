"""A maker and a judge."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
maker, judge = nn.Linear(4, 4), nn.Linear(4, 1)
opt_maker, opt_judge = torch.optim.SGD(maker.parameters(), lr=0.1), torch.optim.SGD(judge.parameters(), lr=0.1)
x = torch.randn(16, 4)

for _ in range(5):
    made = maker(x)
    opt_judge.zero_grad()
    F.softplus(judge(made.detach()) - judge(x)).mean().backward()
    opt_judge.step()
    opt_maker.zero_grad()
    loss = -judge(made).mean()
    loss.backward()  # <- here
    opt_maker.step()
