"""What every doctest may use without importing it, and one thread for each test process."""

import os

os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # before torch: several processes with several threads wait for each other

from typing import Any

import pytest
import torch
from torch import nn

import cograd


@pytest.fixture(autouse=True)
def _names(doctest_namespace: dict[str, Any]) -> None:
    doctest_namespace |= {"torch": torch, "nn": nn, "cograd": cograd}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
