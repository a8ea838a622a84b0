"""A GAN whose discriminator is frozen for the generator's turn."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
gen, disc = nn.Linear(3, 4), nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
opt_g, opt_d = torch.optim.Adam(gen.parameters(), lr=1e-3), torch.optim.Adam(disc.parameters(), lr=1e-3)
real, ones, zeros = torch.randn(16, 4), torch.ones(16, 1), torch.zeros(16, 1)

for _ in range(5):
    fake = gen(torch.randn(16, 3))
    d_loss = F.binary_cross_entropy_with_logits(disc(real), ones)
    d_loss = d_loss + F.binary_cross_entropy_with_logits(disc(fake.detach()), zeros)
    opt_d.zero_grad()
    d_loss.backward()
    opt_d.step()

    for p in disc.parameters():
        p.requires_grad = False
    g_loss = F.binary_cross_entropy_with_logits(disc(fake), ones)
    opt_g.zero_grad()
    g_loss.backward()
    opt_g.step()
    disc.requires_grad_(True)
