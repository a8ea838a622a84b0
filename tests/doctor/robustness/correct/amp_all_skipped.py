"""A scale that is far too large at first: every step of this short run is skipped."""

import torch
from torch import nn

net = nn.Linear(4, 1)
optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
scaler = torch.amp.GradScaler("cpu", init_scale=2.0**60)
for _ in range(6):
    with torch.autocast("cpu", dtype=torch.float16):
        out = net(torch.randn(8, 4))
    loss = (out.half() * 1000).float().pow(2).mean()
    optimizer.zero_grad()
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    scaler.step(optimizer)
    scaler.update()
    print(scaler.get_scale())
