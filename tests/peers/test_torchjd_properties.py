"""The properties that TorchJD's tests of its aggregators assert, on the kinds of matrices that they draw.

Its tests run in float32 and allow 2e-7 to 6e-2; these run in float64 and allow rounding. The shapes, ranks and scales
are those of ``tests/unit/aggregation/_inputs.py`` at TorchJD/torchjd@46962c2; the samplers are written anew.
"""

import math

import pytest
import torch

from cograd.weighting import (
    IMTLG,
    MGDA,
    AlignedMTL,
    CAGrad,
    ConFIG,
    DualProj,
    FairGrad,
    Fixed,
    GradVac,
    NashMTL,
    PCGrad,
    Random,
    UPGrad,
)

RULES = {
    "AlignedMTL-min": AlignedMTL(),
    "AlignedMTL-median": AlignedMTL(scale_mode="median"),
    "AlignedMTL-rmse": AlignedMTL(scale_mode="rmse"),
    "CAGrad-0.5": CAGrad(c=0.5),
    "CAGrad-1": CAGrad(c=1.0),
    "CAGrad-2": CAGrad(c=2.0),
    "ConFIG": ConFIG(),
    "DualProj": DualProj(),
    "FairGrad-2": FairGrad(alpha=2.0),
    "GradVac": GradVac(seed=0),
    "IMTLG": IMTLG(),
    "MGDA": MGDA(),
    "NashMTL": NashMTL(),
    "PCGrad": PCGrad(seed=0),
    "Random": Random(seed=0),
    "Sum": Fixed({}),
    "UPGrad": UPGrad(),
}
SHAPES = [(1, 1, 1), (4, 3, 1), (4, 3, 2), (4, 3, 3), (9, 11, 5), (9, 11, 9)]  # losses, parameters, rank
STATIONARY = [(20, 10, 10), (20, 10, 5), (20, 10, 1), (20, 100, 1), (20, 100, 19)]
SCALES = [0.0, 1e-10, 1e3, 1e5, 1e10, 1e15]


def normal(*size, seed):
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def orthogonal_to(columns, seed):
    """An orthonormal basis of what is orthogonal to the orthonormal ``columns``."""
    losses, known = columns.shape
    return torch.linalg.qr(torch.cat([columns, normal(losses, losses - known, seed=seed)], 1)).Q[:, known:]


def with_left_vectors(left, parameters, seed):
    """A random matrix whose left singular vectors are the columns of ``left``."""
    rank = left.shape[1]
    right = torch.linalg.qr(normal(parameters, rank, seed=seed)).Q
    return left @ torch.diag(normal(rank, seed=seed + 1).abs()) @ right.T


def any_rank(losses, parameters, rank, seed=0):
    return with_left_vectors(orthogonal_to(torch.zeros(losses, 0).double(), seed)[:, :rank], parameters, seed + 1)


def strongly_stationary(losses, parameters, rank, seed=0):
    """There are positive weights whose combination is zero."""
    unit = torch.nn.functional.normalize(normal(losses, seed=seed).abs(), dim=0)
    return with_left_vectors(orthogonal_to(unit[:, None], seed + 1)[:, :rank], parameters, seed + 2)


def weakly_stationary(losses, parameters, rank, seed=0):
    """There are weights >= 0 whose combination is zero, but none that are all positive."""
    size, order = normal(losses, seed=seed).abs(), torch.randperm(losses, generator=torch.Generator().manual_seed(seed))
    halves = torch.zeros(losses, 2, dtype=torch.float64)
    for column, rows in enumerate(order.tensor_split(2)):
        halves[rows, column] = size[rows] / size[rows].norm()
    left = torch.cat([halves[:, 1:], orthogonal_to(halves, seed + 1)], 1)[:, :rank]
    return with_left_vectors(left, parameters, seed + 2)


def not_stationary(losses, parameters, rank, seed=0):
    """No weights >= 0 combine to zero."""
    unit = torch.nn.functional.normalize(normal(losses, seed=seed).abs(), dim=0)[:, None]
    left = torch.cat([unit, orthogonal_to(unit, seed + 1)], 1)[:, :rank]
    return with_left_vectors(left, parameters, seed + 2)


NORMAL = {f"normal {shape}": any_rank(*shape) for shape in SHAPES}
ZERO = {f"zero {shape}": torch.zeros(shape, dtype=torch.float64) for shape in [(1, 1), (4, 3), (9, 11)]}
STRONG = {f"strong {shape}": strongly_stationary(*shape) for shape in STATIONARY}
WEAK = {f"weak {shape}": weakly_stationary(*shape) for shape in STATIONARY}
OTHER = {f"other {shape}": not_stationary(*shape) for shape in STATIONARY}
TYPICAL = NORMAL | ZERO | STRONG | WEAK | OTHER
SCALED = {f"{scale:g} x {name}": scale * J for scale in SCALES for name, J in NORMAL.items()}


def of(*names):
    return pytest.mark.parametrize("rule", [RULES[name] for name in names], ids=names)


def failing(matrices, holds):
    """The matrices for which the property does not hold."""
    return [name for name, J in matrices.items() if not holds(J)]


def direction(rule, J):
    losses, gramian = torch.ones(len(J), dtype=torch.float64), J @ J.T
    return J.T @ rule(losses, gramian=gramian).double()


def size(J):
    """What a sum of the gradients is at most as long as."""
    return J.norm(dim=1).sum()


@of(*RULES)
def test_expected_structure(rule):
    def holds(J):
        found = direction(rule, J)
        return found.shape == J.shape[1:] and bool(found.isfinite().all())

    assert not failing(TYPICAL | SCALED, holds)


@of("UPGrad", "DualProj", "MGDA", "CAGrad-1", "CAGrad-2")
def test_non_conflicting(rule):
    """CAGrad promises it from c = 1 on. What is zero up to rounding has no direction."""

    def holds(J):
        found = direction(rule, J)
        vanishes = found.norm() <= 1e-8 * size(J)
        return vanishes or (J @ found).min() >= -1e-6 * J.norm(dim=1).max() * found.norm()

    assert not failing(TYPICAL, holds)


@of(*(name for name in RULES if name not in ("GradVac", "PCGrad", "Random")))
def test_permutation_invariant(rule):
    def holds(J):
        found = direction(rule, J)
        orders = [torch.randperm(len(J), generator=torch.Generator().manual_seed(seed)) for seed in range(5)]
        return all((direction(rule, J[order]) - found).norm() <= 1e-8 * size(J) for order in orders)

    assert not failing(TYPICAL, holds)


@of("UPGrad", "ConFIG", "Sum")
def test_linear_under_scaling(rule):
    """A(diag(c) J) is linear in c > 0."""

    def holds(J):
        for seed in range(5):
            c, d = normal(2, len(J), 1, seed=seed).exp()
            found = direction(rule, (0.3 * c + 0.8 * d) * J)
            parts = 0.3 * direction(rule, c * J) + 0.8 * direction(rule, d * J)
            if (found - parts).norm() > 1e-8 * (size(c * J) + size(d * J)):
                return False
        return True

    assert not failing(TYPICAL, holds)


@of("UPGrad", "DualProj", "Random", "Sum")
def test_zero_only_where_strongly_stationary(rule):
    """Theirs are means, and so are their bounds."""
    assert not failing(WEAK | OTHER, lambda J: direction(rule, J).norm() > 5e-3 * len(J))


@pytest.mark.parametrize("shape", [(5, 7), (9, 37), (2, 14), (32, 114), (50, 100)])
def test_mgda_satisfies_its_optimality_conditions(shape):
    J = normal(*shape, seed=0)
    gramian = J @ J.T
    weights = MGDA(scale="paper")(gramian=gramian)
    products = gramian @ weights
    assert (weights >= 0).all()
    assert weights.sum().item() == pytest.approx(1, abs=1e-12)
    assert (products - weights @ products).min() >= -1e-10 * gramian.diagonal().max()  # theirs: 1e-2


@pytest.mark.parametrize("shape", [(5, 7), (9, 37), (2, 14), (32, 114), (50, 100)])
def test_the_projection_satisfies_its_optimality_conditions(shape):
    """Lemma 4 of https://arxiv.org/abs/2406.16232, for preferences u."""
    J = normal(*shape, seed=0)
    gramian, u = J @ J.T, normal(len(J), seed=1).abs()
    names = {f"loss{k}": value for k, value in enumerate(u.tolist())}
    weights = DualProj(names)(gramian=gramian)
    scale = gramian.diagonal().max() * weights.abs().sum()
    assert (weights - u).min() >= -1e-12
    assert (gramian @ weights).min() >= -1e-10 * scale
    assert abs((weights - u) @ gramian @ weights) <= 1e-10 * scale * len(J)


@pytest.mark.parametrize("factor", [2**-4, 2**-2, 4, 16])
@pytest.mark.parametrize("shape", [(5, 7), (9, 37), (32, 114)])
def test_the_projection_does_not_depend_on_the_scale(shape, factor):
    J = normal(*shape, seed=0)
    torch.testing.assert_close(DualProj()(gramian=factor * J @ J.T), DualProj()(gramian=J @ J.T), rtol=1e-10, atol=0)


@pytest.mark.parametrize("width", [5, 7, 9, 15, 27, 68, 102, 57, 1200, 11100])
def test_for_two_losses_pcgrad_is_upgrad(width):
    J = normal(2, width, seed=0)
    torch.testing.assert_close(PCGrad()(gramian=J @ J.T), UPGrad()(gramian=J @ J.T), rtol=1e-12, atol=0)


def test_imtlg_of_zeros_is_zero():
    assert direction(IMTLG(), torch.zeros(2, 3, dtype=torch.float64)).tolist() == [0.0] * 3


def test_a_large_gramian_is_no_failure():
    """Theirs refuses it: the solver takes the Gramian as it is."""
    J = 1e5 * normal(10, 100, seed=0)
    found = direction(UPGrad(), J)
    assert (J @ found).min() >= -1e-10 * size(J) ** 2
    assert math.isfinite(found.norm())
