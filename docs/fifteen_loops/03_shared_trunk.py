"""A trunk with two heads, one that names the crop and one that measures it; three optimizers, one sum of losses."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
trunk = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.ReLU(), nn.Flatten())
crop, size = nn.Linear(6 * 49, 4), nn.Linear(6 * 49, 2)
opt_trunk = torch.optim.Adam(trunk.parameters(), lr=3e-3)
opt_crop = torch.optim.Adam(crop.parameters(), lr=3e-3)
opt_size = torch.optim.Adam(size.parameters(), lr=3e-3)
fields, crops = torch.randn(20, 3, 16, 16), torch.randint(0, 4, (20,))
sizes = fields.mean(dim=(2, 3))[:, :2]

for _ in range(15):
    features = trunk(fields)
    crop_loss = F.cross_entropy(crop(features), crops)
    size_loss = F.mse_loss(size(features), sizes)
    total = crop_loss + size_loss

    opt_trunk.zero_grad()
    opt_crop.zero_grad()
    opt_size.zero_grad()
    total.backward()
    opt_trunk.step()
    opt_crop.step()
    opt_size.step()
print(f"crop {crop_loss.item():.3f}, size {size_loss.item():.3f}")
