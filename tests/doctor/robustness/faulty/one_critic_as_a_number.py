"""Two critics of one optimizer: the loss of the second goes into the sum as a number."""

import torch
from torch import nn

first, second, actor = nn.Linear(3, 1), nn.Linear(3, 1), nn.Linear(2, 1)
critics = torch.optim.Adam([*first.parameters(), *second.parameters()], lr=1e-3)
actors = torch.optim.Adam(actor.parameters(), lr=1e-3)


def update(state, target):
    action = actor(state).detach()
    both = torch.cat([state, action], dim=1)
    first_loss = (first(both) - target).pow(2).mean()
    second_loss = (second(both) - target).pow(2).mean()
    critic_loss = first_loss + float(second_loss)  # <- cut-term
    critics.zero_grad()
    critic_loss.backward()
    critics.step()


for _ in range(6):
    state = torch.randn(8, 2)
    update(state, torch.randn(8, 1))
    both = torch.cat([state, actor(state)], dim=1)
    actor_loss = -torch.min(first(both), second(both)).mean()
    actors.zero_grad()
    actor_loss.backward()
    actors.step()
