"""Two towers, updated in turns."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
users, items = nn.Embedding(20, 4), nn.Embedding(30, 4)
opt_users, opt_items = torch.optim.SGD(users.parameters(), lr=0.1), torch.optim.SGD(items.parameters(), lr=0.1)
u, i, rating = torch.randint(0, 20, (64,)), torch.randint(0, 30, (64,)), torch.rand(64)

for _ in range(6):
    user_loss = F.mse_loss((users(u) * items(i).detach()).sum(1), rating)
    opt_users.zero_grad()
    user_loss.backward()
    opt_users.step()

    item_loss = F.mse_loss((users(u).detach() * items(i)).sum(1), rating)
    opt_items.zero_grad()
    item_loss.backward()  # <- here
