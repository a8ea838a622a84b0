"""Actions are sampled, rewards come as numbers, and the advantage is detached on purpose."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
body, actor, critic = nn.Linear(4, 8), nn.Linear(8, 3), nn.Linear(8, 1)
optimizer = torch.optim.Adam([*body.parameters(), *actor.parameters(), *critic.parameters()], lr=1e-3)
for _ in range(5):
    log_probs, values, rewards, entropies = [], [], [], []
    state = torch.randn(4)
    for _ in range(6):
        h = torch.tanh(body(state))
        policy = torch.distributions.Categorical(logits=actor(h))
        action = policy.sample()
        log_probs.append(policy.log_prob(action))
        entropies.append(policy.entropy())
        values.append(critic(h).squeeze())
        rewards.append(float(action.item() == 1))
        state = state.roll(1) + 0.1 * action.item()
    returns = torch.tensor([sum(rewards[i:]) for i in range(6)])
    value = torch.stack(values)
    advantage = (returns - value).detach()
    loss = -(torch.stack(log_probs) * advantage).mean() + F.mse_loss(value, returns)
    loss = loss - 0.01 * torch.stack(entropies).mean()
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(body.parameters(), 1.0)
    optimizer.step()
