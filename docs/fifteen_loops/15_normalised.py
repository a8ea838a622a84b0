"""One network with two heads, whose losses are brought to one scale by dividing each by its mean."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
net = nn.ModuleDict({"body": nn.Linear(7, 14), "depth": nn.Linear(14, 2), "ground": nn.Linear(14, 3)})
optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
scans = torch.randn(36, 7)
depths, grounds = scans[:, :2] * 10, scans[:, 2:5].argmax(dim=1)

for epoch in range(30):
    code = torch.relu(net["body"](scans))
    depth_loss = F.mse_loss(net["depth"](code), depths)
    ground_loss = F.cross_entropy(net["ground"](code), grounds)
    depth_scaled = depth_loss / depth_loss.mean()
    ground_scaled = ground_loss / ground_loss.mean()
    total = 0.5 * depth_scaled + 0.5 * ground_scaled
    optimizer.zero_grad()
    total.backward()
    optimizer.step()
    if epoch % 10 == 0:
        print(f"epoch {epoch}, total {total.item():.3f}")
