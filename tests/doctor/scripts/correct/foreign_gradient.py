"""An autoencoder, and a probe that is only to read what it learns."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
encoder, decoder, probe = nn.Linear(6, 4), nn.Linear(4, 6), nn.Linear(4, 2)
optimizer = torch.optim.SGD([*encoder.parameters(), *decoder.parameters()], lr=0.1)
opt_probe = torch.optim.SGD(probe.parameters(), lr=0.1)
x = torch.randn(32, 6)
kind = (x[:, 0] > 0).long()

for _ in range(6):
    code = encoder(x).tanh()
    rebuilt = F.mse_loss(decoder(code), x)
    guessed = F.cross_entropy(probe(code.detach()), kind)
    optimizer.zero_grad()
    opt_probe.zero_grad()
    (rebuilt + guessed).backward()
    optimizer.step()
    opt_probe.step()
