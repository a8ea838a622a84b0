"""An encoder and a decoder with an optimizer each."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
encoder, decoder = nn.Sequential(nn.Linear(6, 3), nn.Tanh()), nn.Linear(3, 6)
opt_encoder = torch.optim.SGD(encoder.parameters(), lr=0.1)
opt_decoder = torch.optim.SGD(encoder.parameters(), lr=0.1)  # <- here
x = torch.randn(32, 6)

for _ in range(6):
    loss = F.mse_loss(decoder(encoder(x)), x)
    for optimizer in (opt_encoder, opt_decoder):
        optimizer.zero_grad()
    loss.backward()
    opt_encoder.step()
    opt_decoder.step()
