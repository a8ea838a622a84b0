"""Two generators, two critics, a cycle loss, frozen critics in the generators' turn, a metric with a graph."""

import itertools

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
there, back, critic_a, critic_b = (nn.Linear(4, n) for n in (4, 4, 1, 1))
opt_g = torch.optim.Adam(itertools.chain(there.parameters(), back.parameters()), lr=1e-3)
opt_d = torch.optim.Adam([*critic_a.parameters(), *critic_b.parameters()], lr=1e-3)
a, b = torch.randn(12, 4), torch.randn(12, 4)
for _ in range(5):
    fake_b, fake_a = there(a), back(b)
    for p in itertools.chain(critic_a.parameters(), critic_b.parameters()):
        p.requires_grad = False
    cycle = F.l1_loss(back(fake_b), a) + F.l1_loss(there(fake_a), b)
    loss_g = F.softplus(-critic_b(fake_b)).mean() + F.softplus(-critic_a(fake_a)).mean() + 10 * cycle
    opt_g.zero_grad()
    loss_g.backward()
    opt_g.step()
    for p in itertools.chain(critic_a.parameters(), critic_b.parameters()):
        p.requires_grad = True
    opt_d.zero_grad()
    for critic, real, fake in ((critic_a, a, fake_a), (critic_b, b, fake_b)):
        loss_d = F.softplus(-critic(real)).mean() + F.softplus(critic(fake.detach())).mean()
        loss_d.backward()
    opt_d.step()
    error = F.l1_loss(fake_a.detach(), a).item()
    drift = F.mse_loss(there(a), b).item()
