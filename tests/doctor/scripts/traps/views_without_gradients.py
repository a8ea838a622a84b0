"""Parameters that are written through views made under no_grad, of which torch refuses to tell the graph."""

import torch
from torch import nn

torch.manual_seed(0)
net = nn.Linear(4, 4)
nn.init.orthogonal_(net.weight, 0.5)
with torch.no_grad():
    net.weight.view(-1)[0] = 1.0
    view = net.bias.view(2, 2)
    view.mul_(0.5)
    view += 1
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
for _ in range(4):
    loss = net(torch.ones(2, 4)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        net.weight.view(-1).clamp_(-1, 1)
