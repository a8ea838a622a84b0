"""Two networks with nothing in common; their two losses are added, and differentiated at once."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
demand = nn.Sequential(nn.Linear(7, 14), nn.ReLU(), nn.Linear(14, 1))
weather = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 64, 4))
opt_demand = torch.optim.Adam(demand.parameters(), lr=4e-3)
opt_weather = torch.optim.Adam(weather.parameters(), lr=4e-3)
prices, maps = torch.randn(28, 7), torch.randn(28, 2, 10, 10)
sold, sky = prices.sum(dim=1, keepdim=True), torch.randint(0, 4, (28,))

for _ in range(16):
    demand_loss = F.mse_loss(demand(prices), sold)
    weather_loss = F.cross_entropy(weather(maps), sky)
    both = demand_loss + weather_loss
    opt_demand.zero_grad()
    opt_weather.zero_grad()
    both.backward()
    opt_demand.step()
    opt_weather.step()
print(f"demand {demand_loss.item():.3f}, weather {weather_loss.item():.3f}")
