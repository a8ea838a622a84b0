"""One network with two heads, and a fixed weight on the loss of each."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
net = nn.ModuleDict({"body": nn.Linear(8, 16), "height": nn.Linear(16, 3), "species": nn.Linear(16, 2)})
optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
plants = torch.randn(40, 8)
heights, species = plants[:, :3] * 2, (plants[:, 3] > 0).long()

for epoch in range(30):
    code = torch.relu(net["body"](plants))
    height_loss = F.mse_loss(net["height"](code), heights)
    species_loss = F.cross_entropy(net["species"](code), species)
    total = 0.6 * height_loss + 0.4 * species_loss
    optimizer.zero_grad()
    total.backward()
    optimizer.step()
    if epoch % 10 == 0:
        print(f"epoch {epoch}, height {height_loss.item():.3f}, species {species_loss.item():.3f}")
