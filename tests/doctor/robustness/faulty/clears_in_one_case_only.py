"""The discriminator's gradients are cleared in the first epoch only."""

import torch
from torch import nn

generator, judge = nn.Linear(3, 2), nn.Linear(2, 1)
opt_g, opt_d = torch.optim.SGD(generator.parameters(), lr=0.01), torch.optim.SGD(judge.parameters(), lr=0.01)
for epoch in range(3):
    for _ in range(4):
        fake = generator(torch.randn(8, 3))
        opt_g.zero_grad()
        loss_g = -judge(fake).mean()
        loss_g.backward()
        opt_g.step()
        if epoch == 0:
            opt_d.zero_grad()  # <- missing-zero-grad
        loss_d = judge(fake.detach()).mean() - judge(torch.randn(8, 2)).mean()
        loss_d.backward()
        opt_d.step()
