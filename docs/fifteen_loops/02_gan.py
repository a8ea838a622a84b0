"""A painter and a judge of points on a ring; both losses are computed first, then each model is updated."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
painter = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
judge = nn.Sequential(nn.Linear(2, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1))
opt_painter = torch.optim.Adam(painter.parameters(), lr=2e-3)
opt_judge = torch.optim.Adam(judge.parameters(), lr=2e-3)
yes, no = torch.ones(48, 1), torch.zeros(48, 1)

for _ in range(10):
    angle = torch.rand(48, 1) * 6.283
    ring = torch.cat([angle.cos(), angle.sin()], dim=1)
    painted = painter(torch.randn(48, 4))

    on_ring, on_painted = judge(ring), judge(painted.detach())
    judge_loss = F.binary_cross_entropy_with_logits(on_ring, yes)
    judge_loss = judge_loss + F.binary_cross_entropy_with_logits(on_painted, no)
    painter_loss = F.binary_cross_entropy_with_logits(judge(painted), yes)

    opt_judge.zero_grad()
    judge_loss.backward()
    opt_judge.step()

    opt_painter.zero_grad()
    painter_loss.backward()
    opt_painter.step()
print(f"judge {judge_loss.item():.3f}, painter {painter_loss.item():.3f}")
