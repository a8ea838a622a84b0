"""What is printed of a joint with options."""

from functools import partial

import torch
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import StepLR

from cograd import EMA, Joint


def test_what_is_not_as_usual():
    joint = Joint(
        models={"gen": nn.Linear(4, 3), "disc": nn.Linear(3, 1)},
        losses=lambda m, x: {"gen": m.disc(m.gen(x)).mean()},
        optimizers=partial(SGD, lr=0.1),
        clip={"gen": 1.0},
        accumulate={"disc": 2},
        schedulers=partial(StepLR, step_size=1),
        followers={"mean": EMA("gen")},
        precision="bf16",
    )
    joint.step(torch.ones(2, 4))
    assert str(joint) == (
        "Joint of gen, disc\n"
        "  trains: every loss trains what it reaches\n"
        "  phases: 1. update gen, disc\n"
        "  clip: gen Clip(norm=1.0, value=None, kind=2.0)\n"
        "  accumulate: disc 2\n"
        "  schedulers: gen StepLR; disc StepLR\n"
        "  followers: mean EMA(of='gen', decay=0.999, every=1)\n"
        "  precision: bf16\n"
        "  steps: 1; updates: gen 1, disc 0, mean 1"
    )
