"""Gradients that float32 products cannot tell apart, or whose squares it cannot hold, have an exact Gramian."""

import pytest
import torch
from torch import nn

import cograd
from cograd.gramian import At, Layerwise, Rows
from cograd.weighting import UPGrad

LOSSES = 6


def dense(width, dtype=torch.float32):
    """A trunk that puts out ``width`` numbers for one sample, so that all gradients are in as many dimensions."""
    trunk = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, width)).to(dtype)
    return trunk, trunk(torch.randn(1, 8, dtype=dtype))


def words(width, sparse=True):
    table = nn.Embedding(50, width, sparse=sparse)
    return table, table(torch.tensor([[3, 3, 7]])).sum(1)


def convolved(width):
    trunk = nn.Sequential(nn.Conv2d(1, width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return trunk, trunk(torch.randn(1, 1, 5, 5))


def complex_numbers(width):
    trunk = nn.Linear(8, width, dtype=torch.complex64)
    z = trunk(torch.randn(1, 8, dtype=torch.complex64))
    return trunk, z.abs()


TRUNKS = {
    "linear": dense,
    "words": words,
    "words, dense": lambda width: words(width, sparse=False),
    "convolutions": convolved,
    "complex": complex_numbers,
}
ENGINES = {"automatic": lambda z: None, "rows": lambda z: Rows(), "layerwise": lambda z: Layerwise(), "at": At}


def losses_of(z, seed=0):
    generator = torch.Generator().manual_seed(seed)
    heads = torch.randn(LOSSES, z.shape[1], generator=generator).to(z)
    targets = torch.randn(LOSSES, generator=generator).to(z)
    return {f"l{k}": (z @ heads[k] - targets[k]).square().sum() for k in range(LOSSES)}


@pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)
@pytest.mark.parametrize("trunk", TRUNKS.values(), ids=TRUNKS)
def test_collinear_gradients_are_collinear(trunk, engine):
    torch.manual_seed(0)
    _, z = trunk(1)
    report = cograd.backward(losses_of(z), weighting=UPGrad(), gramian=engine(z))
    cosines = torch.tensor(list(report.gramian.cosines.values()))
    assert (cosines.abs() - 1).abs().max() <= 1e-13


@pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)
@pytest.mark.parametrize("trunk", TRUNKS.values(), ids=TRUNKS)
@pytest.mark.parametrize("seed", range(5))
def test_no_loss_is_opposed_where_gradients_are_of_low_rank(trunk, engine, seed):
    torch.manual_seed(seed)
    model, z = trunk(2)
    losses = losses_of(z, seed)
    parameters = list(model.parameters())
    rows = []
    for loss in losses.values():
        found = torch.autograd.grad(loss, parameters, retain_graph=True)
        rows.append(
            torch.cat([torch.view_as_real(g).flatten() if g.is_complex() else g.to_dense().flatten() for g in found])
        )
    J = torch.stack(rows).double()
    cograd.backward(losses, weighting=UPGrad(), gramian=engine(z))
    made = [p.grad.to_dense() for p in parameters]
    direction = torch.cat([torch.view_as_real(g).flatten() if g.is_complex() else g.flatten() for g in made]).double()
    if direction.norm() > 1e-4 * J.norm(dim=1).max():
        assert ((J @ direction) / J.norm(dim=1) / direction.norm()).min() >= -1e-3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    torch.manual_seed(0)
    _, z = dense(1, dtype)
    report = cograd.backward(losses_of(z), weighting=UPGrad())
    assert torch.linalg.eigvalsh(report.gramian.matrix).min() >= -1e-14 * report.gramian.matrix.trace()


def test_a_graph_with_forbidden_routes():
    torch.manual_seed(0)
    trunk, head = nn.Linear(8, 1), nn.Linear(1, 1)
    z = trunk(torch.randn(1, 8))
    losses = {"a": head(z).square().sum(), "b": (z - 3).square().sum(), "c": (z + 1).square().sum()}
    report = cograd.backward(
        losses,
        models={"trunk": trunk, "head": head},
        trains={"a": "trunk", "b": "trunk", "c": "trunk"},
        weighting=UPGrad(),
    )
    assert all(abs(abs(cosine) - 1) <= 1e-13 for cosine in report.gramian.cosines.values())


@pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)
@pytest.mark.parametrize("scale", [1e-25, 1e22])
def test_squares_that_float32_cannot_hold(scale, engine):
    torch.manual_seed(0)
    _, z = dense(4)
    expected = cograd.backward(losses_of(z), weighting=UPGrad(), gramian=engine(z), retain_graph=True)
    losses = {name: loss * scale for name, loss in losses_of(z).items()}
    found = cograd.backward(losses, weighting=UPGrad(), gramian=engine(z))
    torch.testing.assert_close(found.gramian.matrix / scale**2, expected.gramian.matrix, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(list(found.weights.values()), list(expected.weights.values()), rtol=1e-3, atol=1e-3)


def test_many_columns_are_multiplied_in_parts(monkeypatch):
    monkeypatch.setattr("cograd.gramian._gram.CHUNK", 7)
    torch.manual_seed(0)
    _, z = dense(1)
    report = cograd.backward(losses_of(z), weighting=UPGrad(), gramian=Rows())
    assert all(abs(abs(cosine) - 1) <= 1e-13 for cosine in report.gramian.cosines.values())


def test_distinct_gradients_are_multiplied_once(monkeypatch):
    from cograd.gramian import _gram

    asked = []
    real = _gram._multiplied
    monkeypatch.setattr(_gram, "_multiplied", lambda rows: asked.append(rows.dtype) or real(rows))
    torch.manual_seed(0)
    _, z = dense(12)
    cograd.backward(dict(list(losses_of(z).items())[:2]), weighting=UPGrad(), gramian=Rows())
    assert set(asked) == {torch.float32}


def test_neither_gramian_nor_gradients_hold_the_graph():
    torch.manual_seed(0)
    trunk, heads = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)), nn.Linear(64, 3)
    y = heads(trunk(torch.randn(4, 64))).square().mean(0)
    report = cograd.backward({"a": y[0], "b": y[1], "c": y[2]}, weighting=UPGrad(), gramian=Layerwise())
    assert "layer by layer" in report.gramian.how[0]
    assert not report.gramian.matrix.requires_grad
    assert not any(p.grad.requires_grad for p in trunk.parameters())
