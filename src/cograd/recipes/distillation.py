"""A small student learns from a large frozen teacher and from the labels (scheme 10).

The teacher is a model like any other, so ``losses`` can use it and its weights are saved, but its
parameters do not require gradients: nothing trains it and it needs no optimizer.

Hinton et al., Distilling the Knowledge in a Neural Network, 2015, https://arxiv.org/abs/1503.02531.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div

import cograd
from cograd.recipes import Minibatches, Recipe, accuracy, load, main, majority, mlp, predicting

Batch = tuple[Tensor, ...]
TEMPERATURE = 3.0


def soft_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """How far the student's probabilities are from the teacher's, both softened; in nats."""
    target = (teacher / TEMPERATURE).log_softmax(1)
    return kl_div((student / TEMPERATURE).log_softmax(1), target, reduction="batchmean", log_target=True)


def losses(m: Any, batch: Batch) -> cograd.Losses:
    """How far the student is from the labels, and from the teacher."""
    image, digit = batch
    student = m.student(image)
    return {
        "hard": cross_entropy(student, digit),
        "soft": soft_loss(student, m.teacher(image)) * TEMPERATURE**2,
    }


def taught(x: Tensor, y: Tensor, seed: int) -> nn.Sequential:
    """A teacher that has learned from images ``x`` and labels ``y``, and learns no more."""
    teacher = mlp(64, 256, 256, 10)
    optimizer = torch.optim.Adam(teacher.parameters(), lr=1e-3, fused=True)
    batches = Minibatches(x, y, size=64, seed=seed)
    for epoch in range(15):
        batches.set_epoch(epoch)
        for image, digit in batches:
            optimizer.zero_grad()
            cross_entropy(teacher(image), digit).backward()
            optimizer.step()
    return teacher.eval().requires_grad_(False)


def build(seed: int = 0) -> Recipe:
    """Models, the optimizer, data, and how to judge the result."""
    torch.manual_seed(seed)
    data = load("digits", seed)
    joint = cograd.Joint(
        models={"teacher": taught(data.x, data.y, seed), "student": mlp(64, 8, 10)},
        losses=losses,
        weights={"hard": 0.3, "soft": 0.7},
        optimizers=partial(torch.optim.Adam, lr=5e-3, fused=True),
    )

    def score() -> float:
        with predicting(joint) as m:
            return accuracy(m.student(data.test_x), data.test_y)

    return Recipe(
        joint=joint,
        batches=Minibatches(data.x, data.y, size=32, seed=seed),
        epochs=30,
        metric="accuracy of the student",
        score=score,
        baseline=majority(data.y, data.test_y),
        trivial="always the most common digit",
        by_hand=by_hand,
    )


def by_hand(m: Any, optimizers: Any) -> Callable[[Batch], object]:
    """The same step in plain PyTorch."""

    def step(batch: Batch) -> object:
        image, digit = batch
        student = m.student(image)
        hard = cross_entropy(student, digit)
        soft = soft_loss(student, m.teacher(image)) * TEMPERATURE**2
        optimizers["student"].zero_grad()
        (0.3 * hard + 0.7 * soft).backward()
        optimizers["student"].step()
        return hard.detach(), soft.detach()

    return step


if __name__ == "__main__":
    main(build)
