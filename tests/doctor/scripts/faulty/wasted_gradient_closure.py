"""A line search on one model, whose loss also fills the gradients of another that is trained apart."""

import torch
from torch import nn

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(3, 5), nn.Tanh())
reader = nn.Linear(5, 1)
optimizer = torch.optim.LBFGS(net.parameters(), lr=0.5, max_iter=4, line_search_fn="strong_wolfe")
opt_reader = torch.optim.SGD(reader.parameters(), lr=0.1)
x = torch.randn(20, 3)


def closure():
    optimizer.zero_grad()
    loss = (reader(net(x)) - x.sum(1, keepdim=True)).square().mean()
    loss.backward()  # <- here
    return loss


for _ in range(5):
    optimizer.step(closure)
    opt_reader.zero_grad()
    (reader(net(x).detach()) - x.sum(1, keepdim=True)).square().mean().backward()
    opt_reader.step()
