"""A sparse code."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
encoder, decoder = nn.Linear(8, 12), nn.Linear(12, 8)
optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-3)
x = torch.randn(40, 8)

for step in range(6):
    code = torch.relu(encoder(x))
    rebuilt = F.mse_loss(decoder(code), x)
    sparsity_penalty = code.abs().mean()  # <- here
    loss = rebuilt
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(step, rebuilt.item(), sparsity_penalty.item())
