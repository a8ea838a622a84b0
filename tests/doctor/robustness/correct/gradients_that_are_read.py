"""Gradients for an adversarial image, and for a Fisher information between two tasks, which no step is to apply."""

import torch
import torch.nn.functional as F
from torch import nn

model = nn.Linear(6, 3)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)


def batch():
    return torch.randn(8, 6), torch.randint(0, 3, (8,))


def attack(x, y):
    x = x.clone().detach().requires_grad_(True)
    loss = F.cross_entropy(model(x), y)
    model.zero_grad()
    loss.backward()
    return (x + 0.1 * x.grad.sign()).detach()


def task():
    for _ in range(5):
        x, y = batch()
        adversarial = attack(x, y)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y) + F.cross_entropy(model(adversarial), y)
        loss.backward()
        optimizer.step()


def fisher():
    found = [torch.zeros_like(p) for p in model.parameters()]
    for _ in range(4):
        x, y = batch()
        model.zero_grad()
        F.cross_entropy(model(x), y).backward()
        for total, p in zip(found, model.parameters(), strict=True):
            total += p.grad.detach() ** 2
    return found


task()
print(fisher())
task()
