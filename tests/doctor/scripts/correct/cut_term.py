"""A style loss on features that another loss uses detached."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
painter, critic = nn.Linear(6, 6), nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 1))
opt_painter = torch.optim.Adam(painter.parameters(), lr=1e-3)
opt_critic = torch.optim.Adam(critic.parameters(), lr=1e-3)
x, target = torch.randn(30, 6), torch.randn(30, 6)

for _ in range(6):
    picture = painter(x)
    frozen = picture.detach()
    critic_loss = critic(frozen).mean() - critic(target).mean()
    opt_critic.zero_grad()
    critic_loss.backward()
    opt_critic.step()

    style = -critic(picture).mean()
    painter_loss = F.l1_loss(picture, target) + 0.3 * style
    opt_painter.zero_grad()
    painter_loss.backward()
    opt_painter.step()
