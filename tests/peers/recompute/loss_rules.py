"""FAMO by its authors."""

import importlib

import torch
from inputs import famo_weights, source
from torch import nn


def famo(checkouts):
    rule = importlib.import_module("famo").FAMO(3, "cpu")
    weights = famo_weights(rule.get_weighted_loss, rule)
    # their own demonstration, smaller and without chance
    rows, columns, tasks = 40, 6, 5
    X = torch.sin(torch.arange(rows * columns)).reshape(rows, columns)
    Y = torch.cos(torch.arange(rows * tasks)).reshape(rows, tasks) * torch.tensor([0.1, 1.0, 3.0, 1.0, 10.0])
    model = nn.Linear(columns, tasks)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    rule, optimizer, history = type(rule)(tasks, "cpu"), torch.optim.Adam(model.parameters()), []
    for _ in range(50):
        loss = (Y - model(X)).pow(2).mean(0)
        optimizer.zero_grad()
        rule.backward(loss)
        optimizer.step()
        with torch.no_grad():
            rule.update((Y - model(X)).pow(2).mean(0))
        history.append(loss.mean().item())
    demonstration = {"rows": rows, "columns": columns, "tasks": tasks, "mean_losses": history[::7],
                     "bias": model.bias.tolist()}  # fmt: skip
    return {"source": source(checkouts, "FAMO", "famo.py"), "weights": weights, "demonstration": demonstration}
