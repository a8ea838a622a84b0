"""Several experts."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
experts = nn.ModuleList([nn.Linear(4, 2)] * 3)  # <- here
gate = nn.Linear(4, 3)
optimizer = torch.optim.Adam([*experts.parameters(), *gate.parameters()], lr=1e-2)
x, y = torch.randn(40, 4), torch.randn(40, 2)
for _ in range(5):
    weights = gate(x).softmax(1)
    out = sum(weights[:, i : i + 1] * expert(x) for i, expert in enumerate(experts))
    optimizer.zero_grad()
    F.mse_loss(out, y).backward()
    optimizer.step()
