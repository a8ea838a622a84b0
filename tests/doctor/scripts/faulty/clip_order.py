"""A recurrent network with clipped gradients."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
rnn, head = nn.RNN(2, 6, batch_first=True), nn.Linear(6, 1)
parameters = [*rnn.parameters(), *head.parameters()]
optimizer = torch.optim.SGD(parameters, lr=0.1)
x = torch.randn(16, 9, 2)

for _ in range(5):
    loss = F.mse_loss(head(rnn(x)[0][:, -1]), x[:, 0, :1])
    optimizer.zero_grad()
    loss.backward()

    optimizer.step()
    nn.utils.clip_grad_norm_(parameters, 0.5)  # <- here
