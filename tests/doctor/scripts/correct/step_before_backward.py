"""An autoencoder and a probe on its code, each with its own loss."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
encoder, decoder = nn.Linear(6, 3), nn.Linear(3, 6)
probe = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))
opt_auto = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-3)
opt_probe = torch.optim.SGD(probe.parameters(), lr=1e-2)
x, y = torch.randn(32, 6), torch.randn(32, 1)

for _ in range(6):
    rebuilt = decoder(torch.tanh(encoder(x)))
    probe_loss = F.mse_loss(probe(x), y) + F.mse_loss(probe(rebuilt.detach()), y)

    opt_probe.zero_grad()
    probe_loss.backward()
    opt_probe.step()
    auto_loss = F.mse_loss(rebuilt, x) + 0.1 * F.mse_loss(probe(rebuilt), y)
    opt_auto.zero_grad()
    auto_loss.backward()
    opt_auto.step()
print(auto_loss.item())
