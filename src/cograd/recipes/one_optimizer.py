"""Three models and a joint loss, with one optimizer over all of their parameters (scheme 12).

The encoder compresses thirteen measures of a wine into four numbers, from which one model tells the
cultivar and another restores the measures.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

import cograd
from cograd.recipes import Minibatches, Recipe, accuracy, load, main, majority, mlp, predicting

Batch = tuple[Tensor, ...]


def losses(m: Any, batch: Batch) -> cograd.Losses:
    """One loss for all: how wrong the cultivar is, plus how far off the restored measures are."""
    wine, cultivar = batch
    code = m.encoder(wine)
    return {"joint": cross_entropy(m.classifier(code), cultivar) + mse_loss(m.decoder(code), wine)}


def build(seed: int = 0) -> Recipe:
    """Models, the optimizer, data, and how to judge the result."""
    torch.manual_seed(seed)
    data = load("wine", seed)
    models = {"encoder": mlp(13, 32, 4), "classifier": nn.Linear(4, 3), "decoder": mlp(4, 32, 13)}
    parameters = [p for model in models.values() for p in model.parameters()]
    joint = cograd.Joint(
        models=models,
        losses=losses,
        optimizers=torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=1e-4),
    )

    def score() -> float:
        with predicting(joint) as m:
            return accuracy(m.classifier(m.encoder(data.test_x)), data.test_y)

    return Recipe(
        joint=joint,
        batches=Minibatches(data.x, data.y, size=12, seed=seed),
        epochs=40,
        metric="accuracy",
        score=score,
        baseline=majority(data.y, data.test_y),
        trivial="always the most common cultivar",
        by_hand=by_hand,
    )


def by_hand(m: Any, optimizers: Any) -> Callable[[Batch], object]:
    """The same step in plain PyTorch."""
    (optimizer,) = optimizers.values()

    def step(batch: Batch) -> object:
        wine, cultivar = batch
        code = m.encoder(wine)
        loss = cross_entropy(m.classifier(code), cultivar) + mse_loss(m.decoder(code), wine)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


if __name__ == "__main__":
    main(build)
