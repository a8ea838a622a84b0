"""A GAN in turns inside Lightning: the joint steps, Lightning loops, counts and saves.

The optimizers belong to the joint. Lightning is given one of its own that holds nothing: each step of it
is one batch in ``trainer.global_step``, by which Lightning saves checkpoints and stops.

    python examples/lightning_module.py                  # how like digits the fakes are, before and after
    python examples/lightning_module.py --epochs 5
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

import lightning
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import DataLoader, TensorDataset

import cograd
from cograd.recipes import likeness, load, mlp

NOISE = 16


def bce(logits: Tensor, target: float) -> Tensor:
    """How far ``logits`` are from saying ``target`` for every example."""
    return binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))


def losses(m: Any, batch: list[Tensor]) -> cograd.Losses:
    """Both losses. Only the one whose turn it is gets evaluated."""
    (real,) = batch
    fake = m.gen(torch.randn(len(real), NOISE, device=real.device))
    return {
        "disc": lambda: bce(m.disc(real), 1.0) + bce(m.disc(fake), 0.0),
        "gen": lambda: bce(m.disc(fake), 1.0),
    }


class GAN(lightning.LightningModule):
    """A generator and a discriminator of 8x8 images."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        leaky = partial(nn.LeakyReLU, 0.2)
        self.gen = mlp(NOISE, 128, 128, 64, activation=leaky).append(nn.Tanh())
        self.disc = mlp(64, 128, 128, 1, activation=leaky)
        self.joint = cograd.Joint(
            models={"gen": self.gen, "disc": self.disc},
            losses=losses,
            trains={"disc": "disc", "gen": "gen"},
            optimizers=partial(torch.optim.Adam, lr=2e-3, betas=(0.5, 0.999)),
            phases=cograd.alternate("disc", "gen"),
        )

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """An optimizer of nothing, for Lightning to count."""
        return torch.optim.SGD([torch.zeros(0, requires_grad=True)])

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        """Both turns."""
        report = self.joint.step(batch)
        self.optimizers().step()
        self.log_dict(dict(report.losses), prog_bar=True)

    def on_train_epoch_end(self) -> None:
        """Rules and schedulers may count epochs."""
        self.joint.end_epoch()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what the next step of the joint depends on."""
        checkpoint["joint"] = self.joint.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Continue there."""
        self.joint.load_state_dict(checkpoint["joint"])


def score(module: GAN, data: Any) -> float:
    """The share of fakes like a digit, or of digits like a fake: the lower of both."""
    with torch.no_grad():
        fakes = module.gen(torch.randn(len(data.test_x), NOISE, generator=torch.Generator().manual_seed(0)))
    return likeness(fakes, data.x, data.test_x)


def main(argv: list[str] | None = None) -> tuple[float, float]:
    """Train; print and return the scores before and after."""
    parser = argparse.ArgumentParser(description="A GAN in turns inside Lightning.")
    parser.add_argument("--epochs", type=int, default=80, help="default 80")
    asked = parser.parse_args(argv)
    torch.manual_seed(0)
    data, module = load("digits"), GAN()
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=asked.epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    before = score(module, data)
    trainer.fit(module, DataLoader(TensorDataset(data.x), batch_size=64, shuffle=True, drop_last=True))
    after = score(module, data)
    print(f"{trainer.global_step} batches, {module.joint.updates['gen']} updates of the generator")
    print(f"fakes like digits, and digits like fakes: {before:.0%} before, {after:.0%} after")
    return before, after


if __name__ == "__main__":
    main()
