"""A variational autoencoder whose losses come from functions."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)


def divergence(mean, log_var):
    spread = -0.5 * (1 + log_var - mean.square() - log_var.exp()).sum(1)
    return spread.mean()


def pixels(rebuilt, x):
    return F.mse_loss(rebuilt, x)


encoder, decoder = nn.Linear(8, 6), nn.Linear(3, 8)
optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-2)
x = torch.randn(32, 8)

for _ in range(6):
    mean, log_var = encoder(x).chunk(2, 1)
    rebuilt = decoder(mean + torch.randn_like(mean) * (0.5 * log_var).exp())
    error = pixels(rebuilt, x)
    kl = divergence(mean, log_var)  # <- here
    loss = error
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(error.item(), kl.item())
