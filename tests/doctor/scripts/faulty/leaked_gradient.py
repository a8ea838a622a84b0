"""An explorer that is trained to surprise a predictor."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
explorer, predictor = nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))
opt_explorer = torch.optim.RMSprop(explorer.parameters(), lr=1e-3)
opt_predictor = torch.optim.RMSprop(predictor.parameters(), lr=1e-3)
x = torch.randn(25, 4)

for _ in range(6):
    opt_explorer.zero_grad()
    opt_predictor.zero_grad()  # <- here
    place = torch.tanh(explorer(x))
    surprise = -F.mse_loss(predictor(place), place.roll(1, 1))
    surprise.backward()
    opt_explorer.step()
    learn = 2 * F.mse_loss(predictor(place.detach()), place.detach().roll(1, 1))
    learn.backward()
    opt_predictor.step()
