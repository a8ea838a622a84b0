"""A critic whose weights are bounded by hand."""

import torch
from torch import nn

torch.manual_seed(0)
gen, critic = nn.Linear(3, 4), nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
opt_g, opt_c = torch.optim.SGD(gen.parameters(), lr=1e-2), torch.optim.SGD(critic.parameters(), lr=1e-2)

for _ in range(5):
    fake = gen(torch.randn(16, 3))
    score = critic(fake).mean()
    for p in critic.parameters():
        p.data.clamp_(-0.1, 0.1)  # <- here
    opt_g.zero_grad()
    (-score).backward()
    opt_g.step()
    critic_loss = critic(fake.detach()).mean() - critic(torch.randn(16, 4)).mean()
    opt_c.zero_grad()
    critic_loss.backward()
    opt_c.step()
