"""One network paints a small picture from a code, the next one reads the picture; one loss at the very end."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
writer = nn.Sequential(nn.Linear(6, 24), nn.Tanh(), nn.Linear(24, 64))
reader = nn.Sequential(nn.Conv2d(1, 5, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 64, 4))
opt_writer = torch.optim.Adam(writer.parameters(), lr=2e-3)
opt_reader = torch.optim.Adam(reader.parameters(), lr=2e-3)
codes = torch.randn(32, 6)
symbols = codes[:, :4].argmax(dim=1)

for _ in range(20):
    opt_writer.zero_grad()
    opt_reader.zero_grad()
    picture = writer(codes).reshape(32, 1, 8, 8)
    loss = F.cross_entropy(reader(picture), symbols)
    loss.backward()
    opt_writer.step()
    opt_reader.step()
print(f"loss {loss.item():.3f}")
