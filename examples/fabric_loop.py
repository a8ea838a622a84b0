"""A trunk with two heads in a Fabric loop: ``cograd.backward`` in the place of ``fabric.backward``.

One head reads the digit, the other measures the ink in each row and column of the image. Both
train the trunk, under a rule that looks at their gradients. The modules are not set up by Fabric: in
mixed precision, what a module that was set up returns accepts no backward but Fabric's own. So the
autocast region is written out, and backward is outside of it.

    python examples/fabric_loop.py                          # accuracy and error on held-out digits
    python examples/fabric_loop.py --precision bf16-mixed
"""

from __future__ import annotations

import argparse
from typing import Any, NamedTuple

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import DataLoader, TensorDataset

import cograd
from cograd.recipes import accuracy, load, mlp

Models = dict[str, nn.Module]


class Score(NamedTuple):
    """On held-out images: the share of digits that were read, and the squared error of the ink."""

    digit: float
    ink: float


def ink(images: Tensor) -> Tensor:
    """The mean of each row and each column ``[N, 16]`` of images ``[N, 64]``."""
    square = images.reshape(-1, 8, 8)
    return torch.cat([square.mean(1), square.mean(2)], 1)


def networks() -> Models:
    """The trunk and its heads."""
    return {"trunk": mlp(64, 128, 64).append(nn.ReLU()), "digit": mlp(64, 10), "ink": mlp(64, 16)}


def losses(m: Models, image: Tensor, digit: Tensor) -> dict[str, Tensor]:
    """How wrong each head is about the same code."""
    code = m["trunk"](image)
    return {"digit": cross_entropy(m["digit"](code), digit), "ink": mse_loss(m["ink"](code), ink(image))}


def score(m: Models, data: Any) -> Score:
    """What the models do with images that they were not trained on."""
    with torch.no_grad():
        code = m["trunk"](data.test_x)
        return Score(accuracy(m["digit"](code), data.test_y), float(mse_loss(m["ink"](code), ink(data.test_x))))


def main(argv: list[str] | None = None) -> tuple[Score, Score]:
    """Train; print and return the scores before and after."""
    parser = argparse.ArgumentParser(description="A trunk with two heads in a Fabric loop.")
    parser.add_argument("--epochs", type=int, default=10, help="default 10")
    parser.add_argument("--precision", choices=["32-true", "bf16-mixed"], default="32-true", help="default 32-true")
    asked = parser.parse_args(argv)
    torch.manual_seed(0)
    data = load("digits")
    fabric = Fabric(accelerator="cpu", devices=1, precision=asked.precision)
    fabric.launch()
    models = {name: fabric.to_device(model) for name, model in networks().items()}
    optimizer = torch.optim.Adam([p for model in models.values() for p in model.parameters()], lr=1e-3)
    loader = fabric.setup_dataloaders(DataLoader(TensorDataset(data.x, data.y), batch_size=64, shuffle=True))
    before = score(models, data)
    for _ in range(asked.epochs):
        for image, digit in loader:
            with fabric.autocast():
                found = losses(models, image, digit)
            optimizer.zero_grad()
            cograd.backward(found, weighting=cograd.weighting.UPGrad())
            optimizer.step()
    after = score(models, data)
    print(f"digits read: {before.digit:.0%} before, {after.digit:.0%} after")
    print(f"squared error of the ink: {before.ink:.3f} before, {after.ink:.3f} after")
    return before, after


if __name__ == "__main__":
    main()
