"""Two networks describe two halves of a record, and a third one joins their descriptions to one answer."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
history, present = nn.Linear(12, 4), nn.Linear(9, 4)
judgement = nn.Linear(8, 1)
parameters = [*history.parameters(), *present.parameters(), *judgement.parameters()]
optimizer = torch.optim.AdamW(parameters, lr=5e-3)
before, now = torch.randn(36, 12), torch.randn(36, 9)
outcome = before[:, :1] - now[:, :1]

for _ in range(25):
    described = torch.cat([history(before), present(now)], dim=1)
    loss = F.mse_loss(judgement(described), outcome)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(f"loss {loss.item():.3f}")
