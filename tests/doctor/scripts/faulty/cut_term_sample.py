"""A variational autoencoder."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
encoder, decoder = nn.Linear(8, 4), nn.Linear(2, 8)
optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-3)
x = torch.randn(64, 8)

for _ in range(6):
    mean, log_scale = encoder(x).chunk(2, 1)
    posterior = torch.distributions.Normal(mean, log_scale.exp())

    z = posterior.sample()  # <- here
    rebuilt = F.mse_loss(decoder(z), x)
    kl = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0)).sum(1).mean()
    loss = rebuilt + 0.1 * kl
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
