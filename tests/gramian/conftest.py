"""What an engine must find, by brute force: every gradient on its own, and then the rule of scope word for word."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor


def smooth(gramian):
    """A rule that uses all of the Gramian, and turns every error in it into an error of the weights."""
    norms = gramian.diagonal().clamp_min(1e-30).sqrt()
    cosines = gramian / norms / norms[:, None]
    return 0.5 + norms.mean() / (norms.mean() + norms) + 0.3 * cosines.sum(1)


@dataclass
class Reference:
    """The outcome of one step."""

    names: tuple[str, ...]
    matrix: Tensor
    weights: dict[str, float]
    gradients: dict[Tensor, Tensor]


def _reference(losses, parameters, trained=lambda name, p: True, fixed=None, rule=smooth):
    """Differentiate ``losses`` loss by loss, parameter by parameter.

    ``trained(name, p)`` says whether the loss may train the parameter; ``fixed`` holds the user's weights.
    """
    names, fixed = list(losses), fixed or {}
    rows = {}  # parameter -> loss -> gradient, where there is one
    for p in parameters:
        found = {k: torch.autograd.grad(losses[k], p, retain_graph=True, allow_unused=True)[0] for k in names}
        rows[p] = {
            k: fixed.get(k, 1.0) * (g.to_dense() if g.is_sparse else g)
            for k, g in found.items()
            if g is not None and trained(k, p)
        }
    several = [p for p in parameters if len(rows[p]) > 1]
    shared = [p for p in several if isinstance(p, torch.nn.Parameter)] or several
    owner = {k: {k} for k in names}
    for p in shared:
        together = set().union(*(owner[k] for k in rows[p]))
        for k in together:
            owner[k] = together
    weights, blocks, order = dict.fromkeys(names, 1.0), [], []
    for k in names:
        part = [other for other in names if other in owner[k]]
        if part[0] != k or not any(k in rows[p] for p in shared):
            continue
        matrix = torch.tensor(
            [
                [
                    sum(float((rows[p][a] * rows[p][b].conj()).sum().real) for p in shared if {a, b} <= rows[p].keys())
                    for a in part
                ]
                for b in part
            ],
            dtype=torch.float64,
        )
        weights.update(zip(part, rule(matrix).tolist(), strict=True))
        scale = torch.tensor([fixed.get(name, 1.0) for name in part], dtype=torch.float64)
        blocks.append(matrix / scale / scale[:, None])
        order += part
    gradients = {}
    for p, own in rows.items():
        if own:
            gradients[p] = sum((weights[k] if any(p is q for q in shared) else 1.0) * g for k, g in own.items())
    total = {k: w * fixed.get(k, 1.0) for k, w in weights.items()}
    return Reference(tuple(order), torch.block_diag(*blocks) if blocks else torch.zeros(0, 0), total, gradients)


def _agrees(report, parameters, expected, like, rtol=1e-10):
    """``report`` and the ``.grad`` of ``parameters`` are ``expected``, whose own parameters are ``like``."""

    def largest(tensors):
        return max((float(t.abs().max()) for t in tensors if t.numel()), default=0.0)

    def close(found, wanted, what, size=0.0):
        size = size or largest([wanted])
        torch.testing.assert_close(
            found.to(wanted.dtype), wanted, rtol=rtol, atol=rtol * size, msg=lambda text: f"{what}: {text}"
        )

    if expected.names:
        assert report.gramian.names == expected.names
        close(report.gramian.matrix, expected.matrix, "Gramian")
    else:
        assert report.gramian is None
    assert list(report.weights) == list(expected.weights)
    close(torch.tensor(list(report.weights.values())), torch.tensor(list(expected.weights.values())), "weights")
    steepest = largest(expected.gradients.values())  # that of a bias before a BatchNorm is rounding alone
    for i, (p, twin) in enumerate(zip(parameters, like, strict=True)):
        wanted = expected.gradients.get(twin)
        assert (p.grad is None) == (wanted is None), f"parameter {i} of shape {tuple(p.shape)}"
        if wanted is not None:
            close(
                p.grad.to_dense() if p.grad.is_sparse else p.grad,
                wanted,
                f"parameter {i} of {tuple(p.shape)}",
                steepest,
            )


@pytest.fixture(scope="session")
def rule():
    """A rule that uses all of the Gramian."""
    return smooth


@pytest.fixture(scope="session")
def reference():
    """``reference(losses, parameters, trained, fixed, rule)``: names, Gramian, weights and gradients by brute force."""
    return _reference


@pytest.fixture(scope="session")
def agrees():
    """``agrees(report, parameters, expected, like, rtol)``: the step found what brute force finds."""
    return _agrees
