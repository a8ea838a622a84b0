"""The two networks that WeiChengTseng/Pytorch-PCGrad tries itself on, by ``cograd.backward``."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import cograd
from cograd.weighting import PCGrad

ANSWERS = json.loads((Path(__file__).parent / "answers" / "pcgrad.json").read_text("utf-8"))


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 4, dtype=torch.float64)

    def losses(self, x, y):
        out = self.linear(x)
        return {"absolute": nn.functional.l1_loss(out, y), "squared": nn.functional.mse_loss(out, y)}


class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.head1, self.head2 = (
            nn.Linear(*shape, dtype=torch.float64) for shape in [(3, 2)] + [(2, 4)] * 2
        )

    def losses(self, x, y):
        features = self.linear(x)
        return {f"head{i}": nn.functional.mse_loss(head(features), y) for i, head in ((1, self.head1), (2, self.head2))}


@pytest.mark.parametrize("kind", [Shared, Heads])
def test_the_gradients_of_their_networks(kind):
    """They average over the losses what is shared, where the paper and we add up; a head has one loss."""
    case = ANSWERS[kind.__name__.lower()]
    x, y = (torch.tensor(case[key], dtype=torch.float64) for key in "xy")
    net = kind()
    net.load_state_dict({key: torch.tensor(value, dtype=torch.float64) for key, value in case["parameters"].items()})
    cograd.backward(net.losses(x, y), weighting=PCGrad())
    for name, p in net.named_parameters():
        theirs = torch.tensor(case["gradients"][name], dtype=torch.float64)
        share = 2 if name.startswith("linear") else 1
        torch.testing.assert_close(p.grad, share * theirs, rtol=1e-8, atol=1e-12)
