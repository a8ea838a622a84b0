"""Autocast and a scaler whose first steps overflow and are skipped."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
net, other = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), nn.Linear(4, 2)
opt_net, opt_other = torch.optim.SGD(net.parameters(), lr=0.1), torch.optim.SGD(other.parameters(), lr=0.1)
scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, growth_interval=100)
x, y = torch.randn(16, 4), torch.randn(16, 2)
for _ in range(12):
    opt_net.zero_grad()
    opt_other.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        a, b = net(x), other(x)
    scaler.scale(F.mse_loss(a.float(), y)).backward()
    scaler.scale(F.l1_loss(b.float(), y)).backward()
    scaler.unscale_(opt_net)
    nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    scaler.step(opt_net)
    scaler.step(opt_other)
    scaler.update()
