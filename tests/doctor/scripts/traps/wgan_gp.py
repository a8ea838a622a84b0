"""Several critic steps per generator step, and a penalty on gradients that has a graph."""

import torch
from torch import nn

torch.manual_seed(0)
gen, critic = nn.Linear(3, 2), nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))
opt_g, opt_c = torch.optim.Adam(gen.parameters()), torch.optim.Adam(critic.parameters())
for _ in range(4):
    for _ in range(3):
        real, fake = torch.randn(8, 2), gen(torch.randn(8, 3)).detach()
        mix = torch.lerp(real, fake, torch.rand(8, 1)).requires_grad_()
        slope = torch.autograd.grad(critic(mix).sum(), mix, create_graph=True)[0]
        loss_c = critic(fake).mean() - critic(real).mean() + 10 * (slope.norm(dim=1) - 1).square().mean()
        opt_c.zero_grad()
        loss_c.backward()
        opt_c.step()
    loss_g = -critic(gen(torch.randn(8, 3))).mean()
    opt_g.zero_grad()
    loss_g.backward()
    opt_g.step()
