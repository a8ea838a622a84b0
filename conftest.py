"""What every doctest may use without importing it."""

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
