"""What every peer is given, and where it comes from."""

import importlib
import itertools
import subprocess
import sys

import torch

SOURCES = {
    "ConFIG": "tum-pbs/ConFIG",
    "FAMO": "Cranial-XIX/FAMO",
    "Pytorch-PCGrad": "WeiChengTseng/Pytorch-PCGrad",
    "PCGrad": "tianheyu927/PCGrad",
    "physicsnemo-sym": "NVIDIA/physicsnemo-sym",
    "nash-mtl": "AvivNavon/nash-mtl",
    "fairgrad": "OptMN-Lab/fairgrad",
    "MTL": "SamsungLabs/MTL",
}
JACOBIANS = {  # row k is the gradient of loss k
    "two": [[-4.0, 1, 1], [6, 1, 1]],
    "three": [[1.0, 0, 0], [-0.6, 0.8, 0], [-0.2, -0.9, 1.5]],
    "four": [[1.0, -2, 0.5, 3, 0, 1], [0.5, 1, -1, 0, 2, -1], [-1, 0.3, 2, -1, 0.7, 0], [0.2, 0.2, -0.4, 1, 1, 3]],
    "uneven": [[1.0, 2, 0, -1], [-30, 10, 20, 5], [200, -900, 100, 400]],
    "alike": [[1.0, 2, 0.5], [1, 1.5, 1], [0.8, 2, 1.5], [2, 1, 1]],
}
LOSSES = [[2.0, 0.5, 4.0], [1.8, 0.49, 3.0], [1.5, 0.55, 2.9], [1.6, 0.3, 2.0], [1.2, 0.31, 1.1], [1.1, 0.2, 1.3]]


def source(checkouts, name, file):
    """Where numbers come from: repository, commit, file."""
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=checkouts / name, check=True, capture_output=True, text=True
    ).stdout.strip()
    return f"{SOURCES[name]}@{commit}:{file}"


def fresh(module):
    """``module`` of the checkout that is first on the path now."""
    for known in [m for m in sys.modules if m.split(".")[0] == module.split(".")[0]]:
        del sys.modules[known]
    return importlib.import_module(module)


def matrices():
    return {name: torch.tensor(rows, dtype=torch.float64) for name, rows in JACOBIANS.items()}


def slopes(total, losses):
    """The weights of the losses in ``total``: its derivative."""
    return torch.autograd.grad(total, losses)[0].tolist()


def famo_weights(weigh, rule):
    """The weights over LOSSES, where the losses after an update are those of the next step."""
    history = []
    for row, after in itertools.pairwise(LOSSES):
        values = torch.tensor(row, requires_grad=True)
        history.append(slopes(weigh(values), values))
        with torch.no_grad():
            rule.update(torch.tensor(after))
    return history
