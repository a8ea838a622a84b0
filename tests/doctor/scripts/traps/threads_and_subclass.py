"""Two threads that each train a model, and an optimizer of the script's own."""

import threading

import torch
from torch import nn


class Sign(torch.optim.Optimizer):
    def __init__(self, params, lr):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.add_(p.grad.sign(), alpha=-group["lr"])


def train(net, x):
    optimizer = Sign(net.parameters(), lr=0.01)
    for _ in range(6):
        optimizer.zero_grad()
        (net(x) - x).square().mean().backward()
        optimizer.step()


torch.manual_seed(0)
nets, x = [nn.Linear(3, 3), nn.Linear(3, 3)], torch.randn(8, 3)
threads = [threading.Thread(target=train, args=(net, x)) for net in nets]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
a, b = nets
