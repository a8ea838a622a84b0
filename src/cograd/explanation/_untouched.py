"""Evaluate and differentiate as a step does, and leave everything as it was."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from cograd._models import buffers_kept
from cograd._random import random_state, replayed


@contextmanager
def untouched(models: Iterable[nn.Module]) -> Iterator[None]:
    """Put back parameters, gradients, buffers, flags, modes and random states when done. Gradients are on inside."""
    modules = list(dict.fromkeys(module for model in models for module in model.modules()))
    parameters = list(dict.fromkeys(p for module in modules for p in module.parameters(recurse=False)))
    before = [(p, p.grad, p.requires_grad, p.detach().clone()) for p in parameters]
    modes = [(module, module.training) for module in modules]
    others = random.getstate(), np.random.get_state()
    with torch.inference_mode(False), torch.enable_grad(), replayed(random_state()), buffers_kept(modules):
        try:
            for p in parameters:
                p.grad = None
            versions = [p._version for p in parameters]
            yield
        finally:
            for (p, grad, flag, value), version in zip(before, versions, strict=True):
                if p._version != version:
                    p.data.copy_(value)
                p.grad = grad
                p.requires_grad = flag
            for module, mode in modes:
                module.training = mode
            random.setstate(others[0])
            np.random.set_state(others[1])
