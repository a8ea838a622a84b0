"""Print the comparisons as three tables: ``make bench``."""

from __future__ import annotations

import argparse

import torch
from rich.console import Console
from rich.table import Table

from benchmarks import cases, fit
from benchmarks.timing import medians


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare cograd with hand-written loops.")
    parser.add_argument("--rounds", type=int, default=1500, help="timed calls of each 1 ms step (default 1500)")
    rounds = parser.parse_args().rounds
    console = Console()
    console.print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, ratios of medians, interleaved\n")

    flat, images = torch.randn(cases.BATCH, cases.DATA), torch.randn(32, 1, 32, 32)
    pairs = {
        "MLP GAN, in turn": (cases.gan_alternating(cases.mlp_gan, flat, cases.fused), rounds),
        "MLP GAN, at once": (cases.gan_simultaneous(cases.mlp_gan, flat, cases.fused), rounds),
        "DCGAN 32x32, in turn": (cases.gan_alternating(cases.dcgan, images, cases.fused), max(20, rounds // 10)),
        "DCGAN 32x32, at once": (cases.gan_simultaneous(cases.dcgan, images, cases.fused), max(20, rounds // 10)),
        "shared trunk, 4 heads": (cases.shared_trunk(), rounds),
        "two independent nets": (cases.independent(), rounds),
    }
    table = Table("case", "by hand [ms]", "cograd [ms]", "overhead", title="Joint against the best loop by hand")
    for name, ((by_hand, joint), n) in pairs.items():
        hand, ours = medians([by_hand, joint], n)
        table.add_row(name, f"{hand * 1e3:.3f}", f"{ours * 1e3:.3f}", f"{ours / hand:.3f}x")
    console.print(table)

    table = Table(
        "cograd",
        "optimizers: theirs / ours",
        "theirs [ms]",
        "cograd [ms]",
        "speed-up",
        title="Against the tutorials' GAN",
    )
    for name, make in (("at once", cases.gan_simultaneous), ("in turn", cases.gan_alternating)):
        for theirs, mine, words in (
            (cases.default, cases.fused, "Adam / fused Adam"),
            (cases.default, cases.default, "Adam / Adam"),
            (cases.fused, cases.fused, "fused Adam / fused Adam"),
        ):
            tutorial = cases.gan_of_the_tutorials(flat, theirs)
            hand, ours = medians([tutorial, make(cases.mlp_gan, flat, mine)[1]], rounds)
            table.add_row(name, words, f"{hand * 1e3:.3f}", f"{ours * 1e3:.3f}", f"{hand / ours:.2f}x")
    console.print(table)
    console.print(fit.measured(max(4, rounds // 50)))


main()
