"""Compute the known answers in ``answers/`` anew, by running the code of the peers.

    python tests/peers/recompute CHECKOUTS

CHECKOUTS is a folder with a checkout of each repository of ``SOURCES``, under its own name. Needs torchjd 0.18, scipy,
cvxpy and ecos. All is run in float64. Nothing of the peers' code is in this repository: only numbers that it gave.
"""

import json
import sys
from pathlib import Path

import torch
from gradient_rules import authors, config, pcgrad
from inputs import JACOBIANS, LOSSES, SOURCES
from loss_rules import famo
from physicsnemo_sym import physicsnemo
from torchjd_rules import torchjd

ANSWERS = Path(__file__).parents[1] / "answers"


def main(checkouts):
    torch.set_default_dtype(torch.float64)
    sys.path[:0] = [str(checkouts / name) for name in SOURCES]
    for make in (torchjd, config, famo, pcgrad, authors, physicsnemo):
        answers = make(checkouts)
        (ANSWERS / f"{make.__name__}.json").write_text(formatted(answers), "utf-8")
    (ANSWERS / "inputs.json").write_text(formatted({"jacobians": JACOBIANS, "losses": LOSSES}), "utf-8")


def formatted(value):
    """JSON with one line per case."""
    parts = []
    for key, inner in value.items():
        lines = [json.dumps(case) for case in inner] if isinstance(inner, list) else None
        text = "[\n  " + ",\n  ".join(lines) + "\n ]" if lines else json.dumps(inner)
        parts.append(f" {json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]).resolve())
