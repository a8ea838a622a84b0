"""Two separate networks under one optimizer; a weight on each loss is meant to say which one matters more."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
price, colour = nn.Linear(8, 2), nn.Linear(6, 4)
optimizer = torch.optim.AdamW([*price.parameters(), *colour.parameters()], lr=5e-3)
houses, flowers = torch.randn(32, 8), torch.randn(32, 6)
prices, colours = houses[:, :2] - houses[:, 2:4], flowers[:, :4].argmax(dim=1)

for _ in range(25):
    price_loss = F.mse_loss(price(houses), prices)
    colour_loss = F.cross_entropy(colour(flowers), colours)
    total = 0.8 * price_loss + 0.2 * colour_loss
    optimizer.zero_grad()
    total.backward()
    optimizer.step()
print(f"price {price_loss.item():.3f}, colour {colour_loss.item():.3f}")
