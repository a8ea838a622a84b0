"""A step that balances K losses by their gradients, against a plain sum and TorchJD: ``python -m benchmarks.balanced``.

Every step is forward and gradients, no optimizer. All balance with UPGrad, but for the plain sum.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from functools import partial

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import cograd
from benchmarks.timing import medians
from cograd.gramian import At, Layerwise, Rows
from cograd.weighting import Stateful, UPGrad

Step = Callable[[], object]


class Case:
    """A trunk, K heads, a batch."""

    def __init__(self, trunk: nn.Module, batch: Tensor, losses: int) -> None:
        torch.manual_seed(0)
        self.trunk, self.batch = trunk, batch
        with torch.no_grad():
            width = trunk(batch).shape[-1]
        self.heads = nn.ModuleList(nn.Linear(width, 1) for _ in range(losses))
        self.targets = torch.randn(losses, *trunk(batch).shape[:-1], 1)
        self.shared = list(trunk.parameters())
        self.everything = [*self.shared, *self.heads.parameters()]

    def clear(self) -> None:
        for p in self.everything:
            p.grad = None

    def losses(self, z: Tensor) -> dict[str, Tensor]:
        pairs = zip(self.heads, self.targets, strict=True)
        return {str(k): (head(z) - target).square().mean() for k, (head, target) in enumerate(pairs)}

    def plain(self) -> None:
        self.clear()
        sum(self.losses(self.trunk(self.batch)).values()).backward()

    def balanced(self, gramian: object = None, refresh: int = 1) -> Step:
        rule = Stateful(UPGrad(), refresh=refresh)

        def step() -> None:
            self.clear()
            cograd.backward(self.losses(self.trunk(self.batch)), weighting=rule, gramian=gramian)

        return step

    def at(self) -> None:
        self.clear()
        z = self.trunk(self.batch)
        cograd.backward(self.losses(z), weighting=UPGrad(), gramian=At(z))

    def rows_by_hand(self) -> None:
        """The heads first, each loss's gradient through the trunk, the Gramian per parameter, the weighted sum."""
        self.clear()
        z = self.trunk(self.batch)
        cut = z.detach().requires_grad_()
        rows, losses = [], self.losses(cut)
        for k, loss in enumerate(losses.values()):
            loss.backward()
            arrived, cut.grad = cut.grad, None
            rows.append(torch.autograd.grad(z, self.shared, arrived, retain_graph=k < len(losses) - 1))
        stacks = [torch.stack(row).flatten(1) for row in zip(*rows, strict=True)]
        del rows
        weights = UPGrad()(gramian=sum(s @ s.T for s in stacks)).float()
        for p, stack in zip(self.shared, stacks, strict=True):
            p.grad = (weights @ stack).view_as(p)

    def torchjd(self, aggregator: object, optimize: bool = False) -> None:
        from torchjd.autojac import jac_to_grad, mtl_backward

        self.clear()
        z = self.trunk(self.batch)
        mtl_backward(
            list(self.losses(z).values()),
            z,
            tasks_params=[list(head.parameters()) for head in self.heads],
            shared_params=self.shared,
        )
        jac_to_grad(self.shared, aggregator, optimize_gramian_computation=optimize)

    def torchjd_engine(self) -> Step:
        from torchjd.aggregation import UPGradWeighting
        from torchjd.autogram import Engine

        engine, weighting = Engine(self.trunk, batch_dim=None), UPGradWeighting()

        def step() -> None:
            self.clear()
            losses = torch.stack(list(self.losses(self.trunk(self.batch)).values()))
            losses.backward(weighting(engine.compute_gramian(losses)))

        return step


def mlp() -> tuple[nn.Module, Tensor]:
    """Four layers of 512, batch 64."""
    layers = [layer for _ in range(4) for layer in (nn.Linear(512, 512), nn.ReLU())]
    return nn.Sequential(*layers), torch.randn(64, 512)


def dcgan() -> tuple[nn.Module, Tensor]:
    """The discriminator of a DCGAN for 32x32 images, batch 32."""

    def down(i: int, o: int) -> list[nn.Module]:
        return [nn.Conv2d(i, o, 4, 2, 1, bias=False), nn.BatchNorm2d(o), nn.LeakyReLU(0.2, inplace=True)]

    first = [nn.Conv2d(3, 64, 4, 2, 1), nn.LeakyReLU(0.2, inplace=True)]
    return nn.Sequential(*first, *down(64, 128), *down(128, 256), nn.Flatten()), torch.randn(32, 3, 32, 32)


class Block(nn.Module):
    """Two convolutions with BatchNorm and a shortcut."""

    def __init__(self, i: int, o: int, stride: int) -> None:
        super().__init__()
        conv = partial(nn.Conv2d, kernel_size=3, padding=1, bias=False)
        self.way = nn.Sequential(
            conv(i, o, stride=stride), nn.BatchNorm2d(o), nn.ReLU(inplace=True), conv(o, o), nn.BatchNorm2d(o)
        )
        same = i == o and stride == 1
        self.short = nn.Identity() if same else nn.Sequential(nn.Conv2d(i, o, 1, stride, bias=False), nn.BatchNorm2d(o))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.way(x) + self.short(x))


def resnet() -> tuple[nn.Module, Tensor]:
    """A small ResNet with BatchNorm for 32x32 images, batch 32."""
    blocks = [Block(32, 32, 1), Block(32, 64, 2), Block(64, 64, 1), Block(64, 128, 2), Block(128, 128, 1)]
    trunk = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return trunk, torch.randn(32, 3, 32, 32)


def transformer() -> tuple[nn.Module, Tensor]:
    """Two encoder layers of width 128, batch 16 x 32 positions."""
    layer = nn.TransformerEncoderLayer(128, 4, 512, dropout=0.0, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), torch.randn(16, 32, 128)


CASES = {"MLP 4x512, batch 64": mlp, "DCGAN trunk": dcgan, "ResNet-like trunk": resnet, "transformer": transformer}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=60, help="timed calls of each step (default 60)")
    parser.add_argument("--losses", type=int, nargs="*", default=[2, 8, 16], help="numbers of losses (default 2 8 16)")
    parser.add_argument("--cases", nargs="*", choices=CASES, default=list(CASES))
    parser.add_argument("--engines", action="store_true", help="time each engine of cograd too")
    options = parser.parse_args()
    try:
        from torchjd.aggregation import UPGrad as Theirs
    except ImportError:
        Theirs = None
        print("torchjd is not installed (pip install '.[bench]'), so it is left out.")
    console = Console(width=160)
    console.print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, medians, interleaved")
    for name in options.cases:
        table = Table("step", *(f"K = {k}" for k in options.losses), title=f"{name}: times a plain sum")
        columns = []
        for k in options.losses:
            torch.manual_seed(0)
            case = Case(*CASES[name](), k)
            steps: dict[str, Step] = {
                "plain sum [ms]": case.plain,
                "cograd": case.balanced(),
                "cograd, refresh=4 (mean)": four(case.balanced(refresh=4)),
                "cograd, At(z)": case.at,
                "rows by hand": case.rows_by_hand,
            }
            if options.engines:
                steps |= {"cograd, Rows": case.balanced(Rows()), "cograd, Layerwise": case.balanced(Layerwise())}
            if Theirs:
                steps |= {
                    "TorchJD": partial(case.torchjd, Theirs()),
                    "TorchJD, optimized Gramian": partial(case.torchjd, Theirs(), True),
                    "TorchJD, Engine": copy.deepcopy(case).torchjd_engine(),  # it hooks every forward of the trunk
                }
            times = medians(list(steps.values()), options.rounds, warmup=3)
            times[2] /= 4
            columns.append(
                {s: t / times[0] if i else t * 1e3 for i, (s, t) in enumerate(zip(steps, times, strict=True))}
            )
        for s in columns[0]:
            table.add_row(s, *(f"{column[s]:.2f}" for column in columns))
        console.print(table)


def four(step: Step) -> Step:
    """Four steps, of which one measures."""

    def steps() -> None:
        for _ in range(4):
            step()

    return steps


if __name__ == "__main__":
    main()
