"""Two towers in turns inside Accelerate, stopped in the middle and resumed exactly.

One tower sees the upper half of a digit, the other the lower half. Both learn codes by which the two
halves of one image find each other. Accelerate has the loop's data, and saves the joint with its own random
state; models and optimizers are given to the joint as they are, not prepared.

    python examples/accelerate_loop.py                      # how often a half finds its other half
    python examples/accelerate_loop.py --epochs 4
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize
from torch.utils.data import DataLoader, TensorDataset

import cograd
from cograd.recipes import accuracy, load, mlp


def likeness(m: Any, images: Tensor) -> Tensor:
    """How well each upper half fits each lower half, ``[N, N]``."""
    upper, lower = images.chunk(2, 1)
    return 10 * normalize(m.upper(upper)) @ normalize(m.lower(lower)).T


def losses(m: Any, batch: list[Tensor]) -> cograd.Losses:
    """Which half belongs to which: asked from both sides."""
    (images,) = batch
    fit = likeness(m, images)
    own = torch.arange(len(images), device=images.device)
    return {"upper": cross_entropy(fit, own), "lower": cross_entropy(fit.T, own)}


def build() -> tuple[Accelerator, cograd.Joint]:
    """Everything anew, as at the start of a program."""
    torch.manual_seed(0)
    joint = cograd.Joint(
        models={"upper": mlp(32, 128, 32), "lower": mlp(32, 128, 32)},
        losses=losses,
        trains={"upper": "upper", "lower": "lower"},
        optimizers=partial(torch.optim.Adam, lr=1e-3),
        phases=cograd.alternate("upper", "lower"),
    )
    accelerator = Accelerator(cpu=True)
    accelerator.register_for_checkpointing(joint)
    return accelerator, joint


def train(accelerator: Accelerator, joint: cograd.Joint, images: Tensor, epochs: int) -> None:
    """``epochs`` more."""
    loader = accelerator.prepare(DataLoader(TensorDataset(images), batch_size=64, shuffle=True, drop_last=True))
    for _ in range(epochs):
        for batch in loader:
            joint.step(batch)


def score(joint: cograd.Joint, images: Tensor) -> float:
    """The share of upper halves that fit no other lower half better than their own, among 50."""
    with torch.no_grad():
        groups = [likeness(joint.models, some) for some in images.split(50) if len(some) == 50]
    return sum(accuracy(fit, torch.arange(50)) for fit in groups) / len(groups)


def main(argv: list[str] | None = None) -> tuple[float, float, float]:
    """Train, and train again with a stop; print and return the scores before, after, and after the other."""
    parser = argparse.ArgumentParser(description="Two towers in turns inside Accelerate.")
    parser.add_argument("--epochs", type=int, default=20, help="default 20")
    asked = parser.parse_args(argv)
    data, half = load("digits"), asked.epochs // 2
    accelerator, joint = build()
    before = score(joint, data.test_x)
    train(accelerator, joint, data.x, half)
    with tempfile.TemporaryDirectory() as folder:
        accelerator.save_state(folder)
        train(accelerator, joint, data.x, asked.epochs - half)
        after = score(joint, data.test_x)

        accelerator, resumed = build()
        accelerator.load_state(folder)
    train(accelerator, resumed, data.x, asked.epochs - half)
    pairs = [
        (p, q)
        for name in joint.models
        for p, q in zip(joint.models[name].parameters(), resumed.models[name].parameters(), strict=True)
    ]
    same = all(torch.equal(p, q) for p, q in pairs)
    print(f"halves that find their own among 50: {before:.0%} before, {after:.0%} after {joint.steps} batches")
    print(f"resumed after {half} epochs: {'the same bit for bit' if same else 'not the same'}")
    return before, after, score(resumed, data.test_x)


if __name__ == "__main__":
    main()
