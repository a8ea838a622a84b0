"""Two networks look at the same signal, and their scores are added."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
coarse = nn.Sequential(nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3))
fine = nn.Sequential(nn.Conv1d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 14, 3))
opt_coarse = torch.optim.Adam(coarse.parameters(), lr=3e-3)
opt_fine = torch.optim.Adam(fine.parameters(), lr=3e-3)
signal = torch.randn(40, 16)
kind = signal[:, :3].argmax(dim=1)
shaped = torch.randn(40, 1, 16)  # only for the shape

for _ in range(20):
    scores = coarse(signal) + fine(shaped)
    loss = F.cross_entropy(scores, kind)
    opt_coarse.zero_grad()
    opt_fine.zero_grad()
    loss.backward()
    opt_coarse.step()
    opt_fine.step()
print(f"loss {loss.item():.3f}")
