"""Straight-through codes, with a codebook loss and a commitment loss on detached sides."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
encoder, decoder, codes = nn.Linear(6, 4), nn.Linear(4, 6), nn.Embedding(10, 4)
optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters(), *codes.parameters()], lr=1e-2)
x = torch.randn(32, 6)
for _ in range(5):
    z = encoder(x)
    nearest = torch.cdist(z, codes.weight).argmin(1)
    q = codes(nearest)
    codebook, commitment = F.mse_loss(q, z.detach()), F.mse_loss(z, q.detach())
    loss = F.mse_loss(decoder(z + (q - z).detach()), x) + codebook + 0.25 * commitment
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
